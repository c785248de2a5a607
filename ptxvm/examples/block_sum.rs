//! Runs a kernel with a missing barrier, then the same kernel with the barrier, and prints
//! what the virtual machine counted and found.
//!
//! ```text
//! cargo run -p ptxvm --example block_sum
//! ```

use std::error::Error;

use ptxvm::{Class, FindingKind, Launch, Memory, Module, Params, Report};

/// Threads of the block.
const THREADS: usize = 64;

/// Every thread puts a value in shared memory and adds the value of the thread 32 places
/// on, which belongs to the other warp. `// barrier` is where they have to meet.
const PTX: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry pair_sums(.param .u64 input, .param .u64 output)
{
    .reg .b32 %r<9>;
    .reg .f32 %f<4>;
    .reg .b64 %rd<6>;
    .shared .align 4 .b8 tile[256];
    ld.param.u64 %rd1, [input];
    ld.param.u64 %rd2, [output];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd3, %r1, 4;
    add.s64 %rd4, %rd1, %rd3;
    ld.global.f32 %f1, [%rd4];
    mov.u32 %r2, tile;
    shl.b32 %r3, %r1, 2;
    add.s32 %r4, %r2, %r3;
    st.shared.f32 [%r4], %f1;
    // barrier
    add.s32 %r5, %r1, 32;
    and.b32 %r6, %r5, 63;
    shl.b32 %r7, %r6, 2;
    add.s32 %r8, %r2, %r7;
    ld.shared.f32 %f2, [%r8];
    add.f32 %f3, %f1, %f2;
    add.s64 %rd5, %rd2, %rd3;
    st.global.f32 [%rd5], %f3;
    ret;
}";

/// Runs the kernel of `ptx` and gives its report and the sums.
fn run(ptx: &str) -> Result<(Report, Vec<f32>), Box<dyn Error>> {
    let module = Module::parse(ptx)?;
    let mut memory = Memory::new();
    let input = memory.alloc(4 * THREADS as u64, "input");
    let output = memory.alloc(4 * THREADS as u64, "output");
    let values: Vec<u8> = (0..THREADS).flat_map(|n| (n as f32).to_le_bytes()).collect();
    memory.write(input, &values);
    let launch = Launch {
        block: [THREADS as u32, 1, 1],
        params: Params::new().u64(input).u64(output).build(),
        // The same seed gives the same order of warps, and so the same findings.
        seed: 1,
        ..Launch::new("pair_sums")
    };
    let report = module.launch(&mut memory, &launch)?;
    let bytes = memory.read(output, 4 * THREADS);
    let sums = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    Ok((report, sums.collect()))
}

fn main() -> Result<(), Box<dyn Error>> {
    let (report, _) = run(PTX)?;
    println!("Without the barrier:");
    for finding in &report.findings {
        println!("  {finding}");
    }
    assert!(report.findings.iter().any(|finding| finding.kind == FindingKind::SharedRace));

    let (report, sums) = run(&PTX.replace("// barrier", "bar.sync 0;"))?;
    let counts = &report.counts;
    println!(
        "With it: {} findings, and the first sum is {}",
        report.findings.len(),
        sums[0]
    );
    println!("  FLOPs                     {}", counts.total_flops());
    println!("  thread instructions       {}", counts.thread_instructions());
    println!("    of these, shared loads  {}", counts.instructions_of(Class::LoadShared));
    println!("  bytes read from DRAM      {}", 32 * counts.distinct_sectors_read);
    println!("  bytes written to DRAM     {}", 32 * counts.distinct_sectors_written);
    println!("  bank conflicts            {}", counts.bank_conflicts);
    assert!(report.findings.is_empty());
    Ok(())
}
