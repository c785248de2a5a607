//! A CUDA kernel of one's own: compiled for an H100, executed and checked on the virtual
//! machine, its FLOPs and bytes counted. Needs NVRTC (`scripts/install-nvrtc`) and no GPU.
//!
//! ```text
//! cargo run --example own_kernel
//! ```

use std::error::Error;

use ptxvm::{Launch, Memory, Module, Params};
use ridgepoint::toolchain::nvrtc::{Nvrtc, Source};
use ridgepoint::toolchain::search::{NVRTC, SearchPath};

/// SwiGLU, the activation of most feed-forward layers: y = gate / (1 + e^-gate) * up.
const TEXT: &str = r#"
extern "C" __global__ void swiglu(const float *gate, const float *up, float *y, unsigned n) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = gate[i] / (1.0f + __expf(-gate[i])) * up[i];
}"#;
const ELEMENTS: u32 = 1000;
const THREADS: u32 = 128;

/// Compiles, runs, checks and counts; prints two lines.
pub fn main() -> Result<(), Box<dyn Error>> {
    // Compile: machine code with its resources, and the PTX that it was assembled from.
    let nvrtc = Nvrtc::find(&SearchPath::of_this_machine(&NVRTC), None)?;
    let source = Source { name: "swiglu", text: TEXT, headers: &[] };
    let cubin = nvrtc.compile(&source, &["--ptxas-options=-v".to_owned()], "sm_90a")?;
    println!("{} registers a thread", cubin.resources["swiglu"].registers);

    // Run: every access is checked for bounds, races and memory that was never written.
    let values = |scale: f32| (0..ELEMENTS).map(move |i| (i as f32 - 500.0) * scale);
    let bytes = |x: &mut dyn Iterator<Item = f32>| x.flat_map(f32::to_le_bytes).collect();
    let (gate, up): (Vec<u8>, Vec<u8>) =
        (bytes(&mut values(0.01)), bytes(&mut values(0.1)));
    let mut memory = Memory::new();
    let [gate_at, up_at, y_at] =
        ["gate", "up", "y"].map(|name| memory.alloc(u64::from(ELEMENTS) * 4, name));
    memory.write(gate_at, &gate);
    memory.write(up_at, &up);
    let launch = Launch {
        grid: [ELEMENTS.div_ceil(THREADS), 1, 1],
        block: [THREADS, 1, 1],
        params: Params::new().u64(gate_at).u64(up_at).u64(y_at).u32(ELEMENTS).build(),
        ..Launch::new("swiglu")
    };
    let report = Module::parse(&cubin.ptx)?.launch(&mut memory, &launch)?;
    if let Some(finding) = report.findings.first() {
        return Err(finding.to_string().into());
    }

    // Check against a reference, and count: the model has 12 bytes for each element.
    let y = memory.read(y_at, ELEMENTS as usize * 4);
    for ((y, gate), up) in y.as_chunks::<4>().0.iter().zip(values(0.01)).zip(values(0.1)) {
        let expected = gate / (1.0 + (-gate).exp()) * up;
        let error = (f32::from_le_bytes(*y) - expected).abs();
        assert!(error <= 1e-5 * expected.abs().max(1.0), "{y:?} instead of {expected}");
    }
    let (flops, moved) = (report.counts.total_flops(), report.counts.compulsory_bytes());
    println!("{flops} FLOPs, {moved} bytes ({} by the model)", 12 * ELEMENTS);
    Ok(())
}
