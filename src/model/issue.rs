//! How many clocks a loop of machine code takes on each unit of an SM, from the
//! disassembly alone: which unit binds, and which share of the tensor cores' rate that
//! leaves at most. Needs no GPU, and is no measurement.
//!
//! An SM has four partitions, each with its warps, its scheduler and its share of the
//! units. Clocks here are of a partition, for one warp that runs the loop once; with more
//! warps, or more partitions, everything grows alike. What an SM has once, the shared
//! memory and the shuffles, serves four such warps in that time. Latencies and waits are
//! left out: the clocks are a bound, which enough warps or asynchronous products approach.
//!
//! Sources. Results per clock and SM of the ordinary units: the table "Throughput of Native
//! Arithmetic Instructions" in <https://docs.nvidia.com/cuda/cuda-c-programming-guide/>,
//! where an instruction has 32 results and a scheduler starts one in a clock. Packing two
//! values into 16 bits: 16 per clock, as FlashMLA's notes on its 8-bit kernel have it for
//! Hopper. Shared memory: 128 bytes per clock and SM. Tensor cores: [`super::derived`].

use super::derived;
use crate::format::DType;
use crate::toolchain::Arch;
use crate::toolchain::sass::Instruction;

/// Threads of a warp, and lanes of an instruction.
const LANES: f64 = 32.0;
/// Partitions of an SM.
const PARTITIONS: f64 = 4.0;
/// Bytes of shared memory that an SM reads or writes in a clock.
const SHARED_BYTES: f64 = 128.0;
/// Rows of a product of a warpgroup.
const WARPGROUP_ROWS: f64 = 64.0;

/// A unit that instructions keep busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    /// Tensor cores.
    Tensor,
    /// The scheduler, which starts one instruction in a clock.
    Issue,
    /// Additions and multiplications in f32.
    Fp32,
    /// The same of pairs of 16 bits.
    Fp16,
    /// Integers, logic, moves, predicates.
    Integer,
    /// Exponentials, reciprocals.
    Special,
    /// Conversions between formats.
    Convert,
    /// Exchange between lanes.
    Shuffle,
    /// Shared memory.
    Shared,
}

impl Unit {
    /// Every unit, in the order in which tables list them.
    pub const ALL: [Unit; 9] = [
        Unit::Tensor,
        Unit::Issue,
        Unit::Fp32,
        Unit::Fp16,
        Unit::Integer,
        Unit::Special,
        Unit::Convert,
        Unit::Shuffle,
        Unit::Shared,
    ];

    /// The name that tables print.
    pub const fn name(self) -> &'static str {
        match self {
            Unit::Tensor => "tensor",
            Unit::Issue => "issue",
            Unit::Fp32 => "fp32",
            Unit::Fp16 => "fp16",
            Unit::Integer => "integer",
            Unit::Special => "mufu",
            Unit::Convert => "convert",
            Unit::Shuffle => "shuffle",
            Unit::Shared => "shared",
        }
    }
}

/// Results of the ordinary units of an SM in a clock.
struct Results {
    fp32: f64,
    /// Pairs count once.
    fp16: f64,
    integer: f64,
    special: f64,
    convert: f64,
    pack: f64,
    shuffle: f64,
}

/// Those of an architecture.
const fn results(arch: Arch) -> Results {
    let (fp32, fp16, convert) = match (arch.major, arch.minor) {
        (8, 0) => (64.0, 128.0, 16.0),
        (8, _) => (128.0, 64.0, 16.0),
        (12, _) => (128.0, 64.0, 16.0),
        _ => (128.0, 128.0, 64.0),
    };
    let shuffle = 32.0;
    Results { fp32, fp16, integer: 64.0, special: 16.0, convert, pack: 16.0, shuffle }
}

/// Clocks of a loop on each unit.
#[derive(Clone, Debug, PartialEq)]
pub struct LoopClocks {
    clocks: [f64; Unit::ALL.len()],
    /// FLOPs of its products, of a warp.
    pub tensor_flops: f64,
}

impl LoopClocks {
    /// The clocks of a warp's instructions; `None` for an architecture whose tensor rates
    /// are not known.
    pub fn of<'a>(
        instructions: impl IntoIterator<Item = &'a Instruction>,
        arch: Arch,
    ) -> Option<Self> {
        let bf16 = derived::flops_per_clock(arch, DType::Bf16)? / PARTITIONS;
        let results = results(arch);
        let mut of_loop = LoopClocks { clocks: [0.0; Unit::ALL.len()], tensor_flops: 0.0 };
        for instruction in instructions {
            of_loop.add(Unit::Issue, 1.0);
            if let Some(product) = Product::of(instruction) {
                let flops = product.flops();
                of_loop.tensor_flops += flops;
                of_loop.add(Unit::Tensor, flops / (bf16 * product.speed));
                of_loop.add(Unit::Shared, product.shared_bytes / SHARED_BYTES);
            } else if let Some((unit, clocks)) = ordinary(instruction, &results) {
                of_loop.add(unit, clocks);
            }
        }
        Some(of_loop)
    }

    fn add(&mut self, unit: Unit, clocks: f64) {
        self.clocks[unit as usize] += clocks;
    }

    /// Clocks on a unit.
    pub fn on(&self, unit: Unit) -> f64 {
        self.clocks[unit as usize]
    }

    /// The unit that is busy for the longest; the tensor cores where others are as busy.
    pub fn binding(&self) -> Unit {
        let mut binding = Unit::Tensor;
        for unit in Unit::ALL {
            if self.on(unit) > self.on(binding) {
                binding = unit;
            }
        }
        binding
    }

    /// The share of the tensor cores' rate that the loop reaches at most; `None` without
    /// products.
    pub fn tensor_share(&self) -> Option<f64> {
        let busy = self.on(Unit::Tensor);
        (busy > 0.0).then(|| busy / self.on(self.binding()))
    }
}

/// Unit and clocks of an instruction that is no product, where it is on one of these units.
fn ordinary(instruction: &Instruction, results: &Results) -> Option<(Unit, f64)> {
    let opcode = &instruction.opcode;
    let per_sm = |results: f64| PARTITIONS * LANES / results;
    let shared = |bytes: f64| (Unit::Shared, PARTITIONS * LANES * bytes / SHARED_BYTES);
    let wide = || match () {
        () if instruction.has("128") => 16.0,
        () if instruction.has("64") => 8.0,
        () => 4.0,
    };
    Some(match instruction.class() {
        "FP32" => (Unit::Fp32, per_sm(results.fp32)),
        "FP16" => (Unit::Fp16, per_sm(results.fp16)),
        "MUFU" => (Unit::Special, per_sm(results.special)),
        "convert" if opcode.starts_with("F2FP") => (Unit::Convert, per_sm(results.pack)),
        "convert" => (Unit::Convert, per_sm(results.convert)),
        "SHFL" => (Unit::Shuffle, per_sm(results.shuffle)),
        "LDS" | "STS" => shared(wide()),
        // Matrices of 128 bytes for all lanes together.
        "LDSM" => {
            let matrices = [("4", 4.0), ("2", 2.0)];
            let count = matrices.iter().find(|(part, _)| instruction.has(part));
            shared(4.0 * count.map_or(1.0, |(_, count)| *count))
        }
        "LDGSTS" => shared(wide()),
        // The uniform datapath is one of its own.
        "integer" if !opcode.starts_with('U') && !opcode.starts_with("R2UR") => {
            (Unit::Integer, per_sm(results.integer))
        }
        _ => return None,
    })
}

/// What a warp has of a product of matrices.
struct Product {
    /// Rows of a warp, columns and length of the sums.
    shape: [f64; 3],
    /// Rate of its format over that of bf16.
    speed: f64,
    /// Bytes that the tensor cores read from shared memory, for all four partitions.
    shared_bytes: f64,
}

impl Product {
    fn of(instruction: &Instruction) -> Option<Self> {
        let opcode = &instruction.opcode;
        let mut parts = opcode.split('.');
        let stem = parts.next()?;
        let speed = match stem {
            "DMMA" => 1.0 / 32.0,
            "HMMA" | "HGMMA" if instruction.has("TF32") => 0.5,
            "HMMA" | "HGMMA" => 1.0,
            "IMMA" | "QMMA" | "IGMMA" | "QGMMA" => 2.0,
            _ => return None,
        };
        let spelled = parts.next()?;
        if !stem.ends_with("GMMA") {
            let shape = shape_of_warp(spelled)?;
            return Some(Product { shape, speed, shared_bytes: 0.0 });
        }
        let mut extents = spelled.split('x').map(|extent| extent.parse::<f64>().ok());
        let (rows, columns, depth) = (extents.next()??, extents.next()??, extents.next()??);
        let element_bytes = 32.0 / depth;
        // Operand a is a register, or part of a pair of descriptors.
        let from_registers = instruction.operands.matches("gdesc").count() > 0
            && instruction
                .operands
                .split(',')
                .nth(1)
                .is_some_and(|operand| operand.trim().starts_with('R'));
        let rows_read = if from_registers { columns } else { columns + WARPGROUP_ROWS };
        Some(Product {
            shape: [rows / PARTITIONS, columns, depth],
            speed,
            shared_bytes: rows_read * depth * element_bytes,
        })
    }

    fn flops(&self) -> f64 {
        2.0 * self.shape.iter().product::<f64>()
    }
}

/// Shape of a product of one warp, such as `16816`: 16 x 8 x 16.
fn shape_of_warp(spelled: &str) -> Option<[f64; 3]> {
    Some(match spelled {
        "884" => [8.0, 8.0, 4.0],
        "1684" => [16.0, 8.0, 4.0],
        "1688" => [16.0, 8.0, 8.0],
        "16816" => [16.0, 8.0, 16.0],
        "16832" => [16.0, 8.0, 32.0],
        "16864" => [16.0, 8.0, 64.0],
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toolchain::sass::Listing;

    /// The clocks of instructions, as the disassembler writes them.
    fn clocks(arch: Arch, instructions: &[&str]) -> LoopClocks {
        let mut text = "\t.section\t.text.k,\"ax\",@progbits\n".to_owned();
        for instruction in instructions {
            text += &format!("        /*0000*/   {instruction} ;\n");
        }
        let listing = Listing::parse(text);
        LoopClocks::of(&listing.functions["k"].instructions, arch).unwrap()
    }

    const SS: &str = "HGMMA.64x256x16.F32.BF16 R24, gdesc[UR8], R24";

    #[test]
    fn products_of_warpgroups_take_half_their_columns() {
        // 4 k x 128 clocks; a and b of 2 + 8 KiB at 128 bytes.
        let of_step = clocks(Arch::SM_90, &[SS; 4]);
        assert_eq!(of_step.on(Unit::Tensor), 512.0);
        assert_eq!(of_step.on(Unit::Shared), 4.0 * 80.0);
        assert_eq!(of_step.on(Unit::Issue), 4.0);
        assert_eq!(of_step.tensor_flops, 2.0 * 16.0 * 256.0 * 64.0);
        assert_eq!((of_step.binding(), of_step.tensor_share()), (Unit::Tensor, Some(1.0)));
        let registers = "HGMMA.64x256x16.F32 R24, R4, gdesc[UR8], R24, gsb0";
        assert_eq!(clocks(Arch::SM_90, &[registers]).on(Unit::Shared), 64.0);
        for (opcode, expected) in [
            ("HGMMA.64x64x8.F32.TF32", 32.0),
            ("QGMMA.64x64x32.F32.E4M3.E4M3", 32.0),
            ("IGMMA.64x256x32.S8.S8", 128.0),
            ("HGMMA.64x8x16.F32.BF16", 4.0),
        ] {
            let line = format!("{opcode} R24, gdesc[UR8], R24");
            assert_eq!(
                clocks(Arch::SM_90, &[&line]).on(Unit::Tensor),
                expected,
                "{opcode}"
            );
        }
    }

    /// Few columns are bound by the rows that are read for them.
    #[test]
    fn narrow_products_are_bound_by_shared_memory() {
        let narrow = clocks(Arch::SM_90, &["HGMMA.64x16x16.F32.BF16 R24, gdesc[UR8], R24"]);
        assert_eq!((narrow.on(Unit::Tensor), narrow.on(Unit::Shared)), (8.0, 20.0));
        assert_eq!((narrow.binding(), narrow.tensor_share()), (Unit::Shared, Some(0.4)));
    }

    #[test]
    fn products_of_warps_have_the_rate_of_their_architecture() {
        let line = "HMMA.16816.F32.BF16 R4, R8, R8, R4";
        for (arch, expected) in
            [(Arch::SM_80, 8.0), (Arch::SM_90, 4.0), (Arch::SM_120, 16.0)]
        {
            assert_eq!(clocks(arch, &[line]).on(Unit::Tensor), expected, "{arch}");
        }
        let other = "IMMA.16832.S8.S8 R4, R8.ROW, R8.COL, R4";
        assert_eq!(clocks(Arch::SM_80, &[other]).on(Unit::Tensor), 8.0);
    }

    #[test]
    fn ordinary_instructions_have_the_rates_of_the_guide() {
        for (line, unit, expected) in [
            ("FFMA R1, R2, R3, R4", Unit::Fp32, 1.0),
            ("HFMA2.BF16 R1, R2, R3, R4", Unit::Fp16, 1.0),
            ("MUFU.EX2 R1, R2", Unit::Special, 8.0),
            ("F2FP.BF16.F32.PACK_AB R1, R2, R3", Unit::Convert, 8.0),
            ("F2F.F16.F32 R1, R2", Unit::Convert, 2.0),
            ("LOP3.LUT R1, R2, R3, RZ, 0xc0, !PT", Unit::Integer, 2.0),
            ("SHFL.BFLY PT, R1, R2, 0x1, 0x1f", Unit::Shuffle, 4.0),
            ("LDS.128 R4, [R8]", Unit::Shared, 16.0),
            ("STS [R8], R4", Unit::Shared, 4.0),
            ("LDSM.16.M88.4 R8, [R15]", Unit::Shared, 16.0),
        ] {
            let found = clocks(Arch::SM_90, &[line]);
            assert_eq!(found.on(unit), expected, "{line}");
            assert_eq!(found.on(Unit::Issue), 1.0, "{line}");
        }
        let uniform = clocks(Arch::SM_90, &["UIADD3 UR4, UR5, 0x2, URZ"]);
        assert_eq!((uniform.on(Unit::Integer), uniform.on(Unit::Issue)), (0.0, 1.0));
        assert_eq!(uniform.tensor_share(), None);
    }

    /// A step of attention in which exponentials take longer than products.
    #[test]
    fn the_busiest_unit_binds() {
        let product = "HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8], R24";
        let lines = [&[product][..], &["MUFU.EX2 R1, R2"; 5]].concat();
        let step = clocks(Arch::SM_90, &lines);
        assert_eq!((step.on(Unit::Tensor), step.on(Unit::Special)), (32.0, 40.0));
        assert_eq!((step.binding(), step.tensor_share()), (Unit::Special, Some(0.8)));
    }
}
