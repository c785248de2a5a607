//! What tensors are made of: number formats and tensors.

/// Latents that share a scale in an fp8 record of latent attention (FlashMLA's format).
pub const LATENTS_OF_SCALE: u64 = 128;

/// A number format of tensor elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// bfloat16: 8 exponent bits, 7 fraction bits.
    Bf16,
    /// IEEE 754 binary16.
    F16,
    /// OCP FP8 E4M3: 4 exponent bits, 3 fraction bits, no infinity.
    Fp8E4m3,
    /// Signed 8-bit integer.
    Int8,
    /// Signed 4-bit integer, two to a byte: weights only.
    Int4,
    /// OCP FP4 E2M1: 0, 0.5, 1, 1.5, 2, 3, 4 and 6 with a sign, two to a byte, the first in
    /// the low half: elements of mxfp4 and nvfp4 only.
    Fp4E2m1,
    /// TensorFloat-32: 8 exponent bits, 10 fraction bits, in 32 bits of memory; what tensor
    /// cores make of binary32.
    Tf32,
    /// OCP FP8 E5M2: 5 exponent bits, 2 fraction bits. Peaks only.
    Fp8E5m2,
    /// IEEE 754 binary64. Peaks only.
    F64,
}

impl DType {
    /// Every format, in the order in which tables list them.
    pub const ALL: [DType; 10] = [
        DType::F32,
        DType::Bf16,
        DType::F16,
        DType::Fp8E4m3,
        DType::Int8,
        DType::Int4,
        DType::Fp4E2m1,
        DType::Tf32,
        DType::Fp8E5m2,
        DType::F64,
    ];

    /// Size of one element in bits.
    pub const fn bits(self) -> u64 {
        match self {
            DType::F64 => 64,
            DType::F32 | DType::Tf32 => 32,
            DType::Bf16 | DType::F16 => 16,
            DType::Fp8E4m3 | DType::Fp8E5m2 | DType::Int8 => 8,
            DType::Int4 | DType::Fp4E2m1 => 4,
        }
    }

    /// Size of `elements` elements in bytes.
    pub const fn bytes_of(self, elements: u64) -> u64 {
        (elements * self.bits()).div_ceil(8)
    }

    /// Size of one element in bytes; a byte where two share one.
    pub const fn bytes(self) -> u64 {
        self.bytes_of(1)
    }

    /// Whether values of this format are multiplied by a scale that is kept
    /// beside them.
    pub const fn is_scaled(self) -> bool {
        matches!(self, DType::Fp8E4m3 | DType::Int8 | DType::Int4 | DType::Fp4E2m1)
    }

    /// The spelling used in suites, ids and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
            DType::F16 => "f16",
            DType::Fp8E4m3 => "fp8_e4m3",
            DType::Int8 => "int8",
            DType::Int4 => "int4",
            DType::Fp4E2m1 => "fp4_e2m1",
            DType::Tf32 => "tf32",
            DType::Fp8E5m2 => "fp8_e5m2",
            DType::F64 => "f64",
        }
    }
}

/// What a tensor's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorFormat {
    /// Values of a format.
    Values(DType),
    /// Raw 32-bit words.
    Words,
    /// A shuffled table of 32-bit page numbers, each used once.
    PageTable,
    /// Weights of norms: values over [`GAIN_DIVISOR`], so that the sums of the products after
    /// a norm are about 1.
    Gains(DType),
    /// Scales of values in a format, f32. Products of values and scales are at most about 1.
    Scales(DType),
    /// One over such scales.
    InverseScales(DType),
    /// Such scales in f16.
    HalfScales(DType),
    /// Such scales in OCP E8M0: powers of two in a byte, 2 to the power of the byte less 127.
    PowerScales(DType),
    /// Such scales in fp8_e4m3.
    ByteScales(DType),
    /// Records of latents in fp8_e4m3 with their scales, then elements in bf16 that carry the
    /// position: see [`MlaDecode`](crate::op::MlaDecode).
    LatentRecords {
        /// Latents of a record.
        latent_dim: u64,
        /// Elements of a record that carry the position.
        rope_dim: u64,
    },
}

/// What values are divided by to be [`TensorFormat::Gains`]: a power of two, so that they
/// are exact. Rows of 4096 products of a norm's elements and values have sums of about
/// `sqrt(4096) / 3 / 32 = 0.7`.
pub const GAIN_DIVISOR: f32 = 32.0;

impl TensorFormat {
    /// Size of `elements` elements in bytes.
    pub const fn bytes_of(self, elements: u64) -> u64 {
        match self {
            TensorFormat::Values(dtype) | TensorFormat::Gains(dtype) => {
                dtype.bytes_of(elements)
            }
            TensorFormat::HalfScales(_) => 2 * elements,
            TensorFormat::PowerScales(_) | TensorFormat::ByteScales(_) => elements,
            TensorFormat::Words
            | TensorFormat::PageTable
            | TensorFormat::Scales(_)
            | TensorFormat::InverseScales(_) => 4 * elements,
            TensorFormat::LatentRecords { latent_dim, rope_dim } => {
                elements * (latent_dim + 4 * (latent_dim / LATENTS_OF_SCALE) + 2 * rope_dim)
            }
        }
    }

    /// Size of one element in bytes.
    pub const fn bytes(self) -> u64 {
        self.bytes_of(1)
    }
}

/// What a tensor is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Read; part of the compulsory bytes.
    Input,
    /// Written; part of the compulsory bytes.
    Output,
    /// Written in part, which is part of the compulsory bytes; the rest stays.
    Update,
    /// Proof that the inputs were read: a checksum, not counted as traffic.
    Witness,
}

/// How memory of the host is allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostMemory {
    /// Pages that stay where they are, which a device copies by itself.
    Pinned,
    /// Ordinary pages, which the driver copies through pinned ones of its own.
    Pageable,
}

impl HostMemory {
    /// Both, in the order in which tables list them.
    pub const ALL: [HostMemory; 2] = [HostMemory::Pinned, HostMemory::Pageable];

    /// The spelling used in suites, ids and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            HostMemory::Pinned => "pinned",
            HostMemory::Pageable => "pageable",
        }
    }
}

/// Which memory a tensor lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemoryPlace {
    /// The memory of the device.
    Device,
    /// The memory of the host. A CPU is both, and makes no difference.
    Host(HostMemory),
}

impl MemoryPlace {
    /// The memory, for messages.
    pub const fn name(self) -> &'static str {
        match self {
            MemoryPlace::Device => "GPU memory",
            MemoryPlace::Host(HostMemory::Pinned) => "pinned host memory",
            MemoryPlace::Host(HostMemory::Pageable) => "pageable host memory",
        }
    }
}

/// One array that a problem reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Name, by which kernels and references ask for it; each once in a problem.
    pub name: &'static str,
    /// What it is there for.
    pub role: Role,
    /// What its elements are.
    pub format: TensorFormat,
    /// How many elements.
    pub elements: u64,
    /// Which memory it lies in.
    pub place: MemoryPlace,
    /// Whether no launch of a model writes it: weights, page tables.
    pub settled: bool,
}

impl Tensor {
    /// A tensor of `elements` elements in the memory of the device.
    pub const fn new(
        name: &'static str,
        role: Role,
        format: TensorFormat,
        elements: u64,
    ) -> Self {
        let place = MemoryPlace::Device;
        Tensor { name, role, format, elements, place, settled: false }
    }

    /// The same tensor, which no launch of a model writes.
    pub const fn settled(self) -> Self {
        Tensor { settled: true, ..self }
    }

    /// The same tensor in the memory of the host.
    pub const fn on_host(self, memory: HostMemory) -> Self {
        Tensor { place: MemoryPlace::Host(memory), ..self }
    }

    /// Size in bytes.
    pub const fn bytes(&self) -> u64 {
        self.format.bytes_of(self.elements)
    }
}

/// `Display` and `FromStr` of enums with `ALL` and `name`.
macro_rules! text_of_name {
    ($($type:ty => $what:literal),* $(,)?) => {$(
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl std::str::FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                <$type>::ALL.into_iter().find(|x| x.name() == text).ok_or_else(|| {
                    let known: Vec<_> = <$type>::ALL.iter().map(|x| x.name()).collect();
                    format!("`{text}` is not {}; one of {}", $what, known.join(", "))
                })
            }
        }
    )*};
}
pub(crate) use text_of_name;

text_of_name!(DType => "a dtype", HostMemory => "a kind of host memory");
