//! Quantization schemes: the format of elements, which elements share a scale, the format
//! of the scales, and whether there are zero points.
//!
//! A scheme is a fact of a matrix `[rows][columns]`: of weights `[output feature][input
//! feature]`, of activations `[token][input feature]`, of a cache `[request and
//! head][everything cached]`, of latents `[token][latent]`. Its spelling is the name of
//! the elements' format with a suffix, such as `fp8_e4m3_block128x128`; the scheme that is
//! customary in a [`QuantPlace`] has none.
//!
//! Sources. mxfp4 and mxfp8: OCP Microscaling Formats (MX) v1.0, sections 5.2 and 5.3: 32
//! elements share a scale in E8M0. nvfp4: NVIDIA, "Introducing NVFP4" and the cuBLAS
//! documentation of block scaling: 16 elements share a scale in E4M3, and a tensor has one
//! more in f32. Blocks of 128 x 128 weights, and 1 x 128 activations, with scales in f32:
//! DeepSeek-V3, arXiv 2412.19437, section 3.3.2. Groups of 4-bit weights with zero points
//! in 4 bits: GPTQ, arXiv 2210.17323, and AWQ, arXiv 2306.00978, as their checkpoints have
//! them (`scales` in f16, `qzeros` packed in 4 bits).
//!
//! Blocks and groups are counted up: a matrix that they do not divide has smaller ones at
//! its ends, as DeepSeek-V3's checkpoint has (a projection to 576 features has 5 rows of
//! blocks) and checkpoints of GPTQ (scales of `ceil(columns / group)`). Predictions count
//! such groups; what is run must have whole ones, since MX leaves open what a shorter group
//! is, and kernels of int4 and nvfp4 take whole groups only.

use std::fmt;

use crate::format::{DType, LATENTS_OF_SCALE, TensorFormat};
use crate::weights::{GROUP_COLUMNS, TILE_COLUMNS, TILE_ROWS};

/// Elements that share a scale in the MX formats.
pub const MX_COLUMNS: u64 = 32;
/// Elements that share a scale in NVFP4.
pub const NVFP4_COLUMNS: u64 = 16;
/// Largest extent of a block or group.
const MAX_SHARED: u64 = 4096;

/// What a quantized matrix is of, which decides what is customary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantPlace {
    /// Weights. Customary: a scale for each output feature; for int4, for each group of
    /// [`GROUP_COLUMNS`] of its columns.
    Weights,
    /// Activations. Customary: values without scales.
    Activations,
    /// A cache of keys or values. Customary: a scale for each request and head.
    Cache,
    /// Keys and values of a prompt. Customary: values without scales.
    Prompt,
    /// Latents in a cache. Customary: a scale for each group of [`LATENTS_OF_SCALE`].
    Latents,
}

/// Elements that share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScaleGroup {
    /// All of a tensor; each expert's matrix counts as one.
    Tensor,
    /// The row of an output feature.
    Channel,
    /// The row of a token.
    Token,
    /// A request's keys, or values, of a head.
    Head,
    /// A block.
    Block {
        /// Its rows.
        rows: u64,
        /// Its columns.
        columns: u64,
    },
    /// So many neighbours in a row.
    Columns(u64),
}

/// The format of scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScaleFormat {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// OCP E8M0: a power of two in 8 bits.
    E8m0,
    /// OCP FP8 E4M3, with one more scale in f32 for the tensor.
    E4m3AndF32,
}

/// Scales of a scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scales {
    /// What shares one.
    pub group: ScaleGroup,
    /// What they are.
    pub format: ScaleFormat,
}

/// A quantization scheme, or a plain format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quant {
    dtype: DType,
    scales: Option<Scales>,
    has_zero_points: bool,
}

/// A matrix that a scheme cannot hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// The rows are not a multiple of this.
    Rows(u64),
    /// The columns are not a multiple of this.
    Columns(u64),
}

impl Quant {
    /// OCP MXFP4.
    pub const MXFP4: Quant = Quant::groups(DType::Fp4E2m1, MX_COLUMNS, ScaleFormat::E8m0);
    /// OCP MXFP8 with elements in E4M3.
    pub const MXFP8: Quant = Quant::groups(DType::Fp8E4m3, MX_COLUMNS, ScaleFormat::E8m0);
    /// NVIDIA NVFP4.
    pub const NVFP4: Quant =
        Quant::groups(DType::Fp4E2m1, NVFP4_COLUMNS, ScaleFormat::E4m3AndF32);

    /// Schemes with a name of their own.
    const NAMED: [(&'static str, Quant); 3] =
        [("mxfp4", Quant::MXFP4), ("mxfp8", Quant::MXFP8), ("nvfp4", Quant::NVFP4)];

    /// Values without scales.
    pub const fn plain(dtype: DType) -> Quant {
        Quant { dtype, scales: None, has_zero_points: false }
    }

    const fn scaled(dtype: DType, group: ScaleGroup, format: ScaleFormat) -> Quant {
        let scales = Some(Scales { group, format });
        Quant { dtype, scales, has_zero_points: false }
    }

    const fn groups(dtype: DType, columns: u64, format: ScaleFormat) -> Quant {
        Quant::scaled(dtype, ScaleGroup::Columns(columns), format)
    }

    /// The customary scheme of a format: that of the format's name alone.
    pub const fn of(dtype: DType, place: QuantPlace) -> Quant {
        let group = match (dtype, place) {
            (
                DType::F32
                | DType::Bf16
                | DType::F16
                | DType::Tf32
                | DType::F64
                | DType::Fp8E5m2,
                _,
            )
            | (_, QuantPlace::Activations | QuantPlace::Prompt) => {
                return Quant::plain(dtype);
            }
            // Fp4E2m1 has no customary scheme; it is spelled as mxfp4 or nvfp4.
            (DType::Fp4E2m1, _) => return Quant::MXFP4,
            (DType::Int4, _) => {
                return Quant::groups(dtype, GROUP_COLUMNS, ScaleFormat::F16);
            }
            (DType::Fp8E4m3 | DType::Int8, QuantPlace::Weights) => ScaleGroup::Channel,
            (DType::Fp8E4m3 | DType::Int8, QuantPlace::Cache) => ScaleGroup::Head,
            (DType::Fp8E4m3 | DType::Int8, QuantPlace::Latents) => {
                ScaleGroup::Columns(LATENTS_OF_SCALE)
            }
        };
        Quant::scaled(dtype, group, ScaleFormat::F32)
    }

    /// Weights in the customary scheme of a format.
    pub const fn weights(dtype: DType) -> Quant {
        Quant::of(dtype, QuantPlace::Weights)
    }

    /// A cache in the customary scheme of a format.
    pub const fn cache(dtype: DType) -> Quant {
        Quant::of(dtype, QuantPlace::Cache)
    }

    /// The same for keys and values in another place: what is customary stays so.
    pub fn moved(self, from: QuantPlace, to: QuantPlace) -> Quant {
        if self == Quant::of(self.dtype, from) { Quant::of(self.dtype, to) } else { self }
    }

    /// Format of the elements.
    pub const fn dtype(self) -> DType {
        self.dtype
    }

    /// The scales, where there are any.
    pub const fn scales(self) -> Option<Scales> {
        self.scales
    }

    /// Whether elements are multiplied by scales.
    pub const fn is_scaled(self) -> bool {
        self.scales.is_some()
    }

    /// Whether a zero point, in 4 bits for each scale, is subtracted before scaling.
    pub const fn has_zero_points(self) -> bool {
        self.has_zero_points
    }

    /// Whether a scale in f32 for each tensor multiplies the others.
    pub fn has_tensor_scale(self) -> bool {
        self.scales.is_some_and(|scales| scales.format == ScaleFormat::E4m3AndF32)
    }

    /// Rows and columns of the scales of a matrix; none where it has none.
    pub const fn scale_grid(self, rows: u64, columns: u64) -> (u64, u64) {
        let Some(scales) = self.scales else { return (0, 0) };
        match scales.group {
            ScaleGroup::Tensor => (1, 1),
            ScaleGroup::Channel | ScaleGroup::Token | ScaleGroup::Head => (rows, 1),
            ScaleGroup::Block { rows: r, columns: c } => {
                (rows.div_ceil(r), columns.div_ceil(c))
            }
            ScaleGroup::Columns(group) => (rows, columns.div_ceil(group)),
        }
    }

    /// Scales of a matrix, but for the one of the tensor.
    pub const fn scale_count(self, rows: u64, columns: u64) -> u64 {
        let (down, across) = self.scale_grid(rows, columns);
        down * across
    }

    /// Neighbours in a row that share a scale; all where there are none.
    pub const fn shared_columns(self, columns: u64) -> u64 {
        match self.scales {
            Some(Scales { group: ScaleGroup::Columns(shared), .. })
            | Some(Scales { group: ScaleGroup::Block { columns: shared, .. }, .. }) => {
                shared
            }
            _ => columns,
        }
    }

    /// The number of an element's scale. Scales in f16 lie as the kernels of int4 take
    /// them, a row of scales for each group; others as the elements do.
    pub const fn scale_index(
        self,
        (rows, columns): (u64, u64),
        row: u64,
        column: u64,
    ) -> u64 {
        let Some(scales) = self.scales else { return 0 };
        let across = self.scale_grid(rows, columns).1;
        match (scales.group, scales.format) {
            (ScaleGroup::Tensor, _) => 0,
            (ScaleGroup::Channel | ScaleGroup::Token | ScaleGroup::Head, _) => row,
            (ScaleGroup::Block { rows: r, columns: c }, _) => row / r * across + column / c,
            (ScaleGroup::Columns(group), ScaleFormat::F16) => column / group * rows + row,
            (ScaleGroup::Columns(group), _) => row * across + column / group,
        }
    }

    /// What a tensor of the scales is made of, where there are any.
    pub const fn scale_format(self) -> Option<TensorFormat> {
        let Some(scales) = self.scales else { return None };
        Some(match scales.format {
            ScaleFormat::F32 => TensorFormat::Scales(self.dtype),
            ScaleFormat::F16 => TensorFormat::HalfScales(self.dtype),
            ScaleFormat::E8m0 => TensorFormat::PowerScales(self.dtype),
            ScaleFormat::E4m3AndF32 => TensorFormat::ByteScales(self.dtype),
        })
    }

    /// Bytes of the scales and zero points of a matrix, those of the tensor included.
    pub const fn scale_bytes(self, rows: u64, columns: u64) -> u64 {
        let (Some(scales), Some(format)) = (self.scales, self.scale_format()) else {
            return 0;
        };
        let count = self.scale_count(rows, columns);
        let of_tensor = match scales.format {
            ScaleFormat::E4m3AndF32 => 4,
            ScaleFormat::F32 | ScaleFormat::F16 | ScaleFormat::E8m0 => 0,
        };
        let zero_points =
            if self.has_zero_points { DType::Int4.bytes_of(count) } else { 0 };
        format.bytes_of(count) + zero_points + of_tensor
    }

    /// Bytes of a matrix with its scales and zero points.
    pub const fn matrix_bytes(self, rows: u64, columns: u64) -> u64 {
        self.dtype.bytes_of(rows * columns) + self.scale_bytes(rows, columns)
    }

    /// Refuses a matrix that groups, or the tiles of int4, do not divide.
    ///
    /// # Errors
    /// The extent to change, and what it must be a multiple of.
    pub const fn check_matrix(self, rows: u64, columns: u64) -> Result<(), Misfit> {
        let is_shuffled = matches!(self.dtype, DType::Int4);
        if is_shuffled && !rows.is_multiple_of(TILE_ROWS) {
            return Err(Misfit::Rows(TILE_ROWS));
        }
        let Some(Scales { group: ScaleGroup::Columns(group), .. }) = self.scales else {
            return Ok(());
        };
        let multiple =
            if is_shuffled && group < TILE_COLUMNS { TILE_COLUMNS } else { group };
        if columns.is_multiple_of(multiple) {
            Ok(())
        } else {
            Err(Misfit::Columns(multiple))
        }
    }

    /// Whether a place can have the scheme: whether its spelling means it there.
    ///
    /// # Errors
    /// What the place takes instead.
    pub fn check_place(self, place: QuantPlace) -> Result<(), String> {
        let meant = Quant::parse(&self.to_string(), place)?;
        if meant == self {
            return Ok(());
        }
        Err(format!(
            "what `{self}` means elsewhere is not a scheme of {}; read its text for that place",
            place.name()
        ))
    }

    /// Reads the spelling of a scheme.
    ///
    /// # Errors
    /// A text that is not a scheme of this place, with those that are.
    pub fn parse(text: &str, place: QuantPlace) -> Result<Quant, String> {
        if let Some((_, quant)) = Quant::NAMED.into_iter().find(|(name, _)| *name == text) {
            return match place {
                QuantPlace::Weights | QuantPlace::Activations => Ok(quant),
                _ => Err(place.refusal(text)),
            };
        }
        let is_prefix = |dtype: &DType| {
            text.strip_prefix(dtype.name())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        };
        let Some(dtype) = DType::ALL.into_iter().find(is_prefix) else {
            return Err(place.unknown(text));
        };
        if dtype == DType::Fp4E2m1 {
            return Err(format!(
                "`{text}` needs scales; write mxfp4 or nvfp4 for {}",
                QuantPlace::Weights.name()
            ));
        }
        if matches!(dtype, DType::F64 | DType::Fp8E5m2) {
            return Err(format!(
                "{dtype} is measured as a peak of arithmetic only; write another format"
            ));
        }
        let is_of_gemm = matches!(place, QuantPlace::Weights | QuantPlace::Activations);
        if dtype == DType::Tf32 && !is_of_gemm {
            return Err(
                "tf32 is what tensor cores multiply; write f32 for what lies in memory"
                    .to_owned(),
            );
        }
        if dtype == DType::Int4 && place != QuantPlace::Weights {
            return Err(
                "int4 is a format of weights; write it as `w_dtype` of gemm or moe_gemm"
                    .to_owned(),
            );
        }
        match text[dtype.name().len()..].strip_prefix('_') {
            None => Ok(Quant::of(dtype, place)),
            Some(suffix) => {
                Quant::of_suffix(dtype, suffix, place).ok_or_else(|| place.unknown(text))
            }
        }
    }

    fn of_suffix(dtype: DType, suffix: &str, place: QuantPlace) -> Option<Quant> {
        let (suffix, has_zero_points) = match suffix.strip_suffix("_zp") {
            Some(suffix) => (suffix, true),
            None => (suffix, false),
        };
        let quant = match (dtype, place) {
            (DType::Int4, QuantPlace::Weights) => {
                let columns = extent(suffix.strip_prefix('g')?)?;
                let is_aligned = columns.is_multiple_of(TILE_COLUMNS)
                    || TILE_COLUMNS.is_multiple_of(columns);
                let quant = Quant::groups(dtype, columns, ScaleFormat::F16);
                return is_aligned.then_some(Quant { has_zero_points, ..quant });
            }
            (DType::Fp8E4m3 | DType::Int8, _) => {
                Quant::scaled(dtype, group_of(suffix, place)?, ScaleFormat::F32)
            }
            _ => return None,
        };
        (!has_zero_points).then_some(quant)
    }
}

/// The group that a suffix of an 8-bit format names.
fn group_of(suffix: &str, place: QuantPlace) -> Option<ScaleGroup> {
    use QuantPlace::{Activations, Cache, Latents, Prompt, Weights};
    match (suffix, place) {
        ("tensor", Weights | Activations | Cache | Prompt) => Some(ScaleGroup::Tensor),
        ("channel", Weights) => Some(ScaleGroup::Channel),
        ("token", Activations) => Some(ScaleGroup::Token),
        ("head", Cache) => Some(ScaleGroup::Head),
        ("g128", Latents) => Some(ScaleGroup::Columns(LATENTS_OF_SCALE)),
        (block, Weights | Activations) => {
            let (rows, columns) = block.strip_prefix("block")?.split_once('x')?;
            Some(ScaleGroup::Block { rows: extent(rows)?, columns: extent(columns)? })
        }
        _ => None,
    }
}

/// An extent of a block or a group, in digits without a leading zero.
fn extent(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    let extent = text.parse().ok().filter(|_| is_plain)?;
    (extent <= MAX_SHARED).then_some(extent)
}

impl QuantPlace {
    const fn name(self) -> &'static str {
        match self {
            QuantPlace::Weights => "weights",
            QuantPlace::Activations => "activations",
            QuantPlace::Cache => "caches",
            QuantPlace::Prompt => "keys and values of a prompt",
            QuantPlace::Latents => "cached latents",
        }
    }

    /// The spellings that the place takes.
    const fn schemes(self) -> &'static str {
        match self {
            QuantPlace::Weights => {
                "f32, bf16, f16, fp8_e4m3 and int8 (also with _tensor, _channel or \
                 _block128x128), int4 (also with _g32, _g128_zp), mxfp4, mxfp8, nvfp4"
            }
            QuantPlace::Activations => {
                "f32, bf16, f16, fp8_e4m3 and int8 (also with _tensor, _token or _block1x128), \
                 mxfp4, mxfp8, nvfp4"
            }
            QuantPlace::Cache => {
                "f32, bf16, f16, fp8_e4m3 and int8 (also with _head or _tensor)"
            }
            QuantPlace::Prompt => "f32, bf16, f16, fp8_e4m3 and int8 (also with _tensor)",
            QuantPlace::Latents => "f32, bf16, f16, fp8_e4m3",
        }
    }

    fn unknown(self, text: &str) -> String {
        format!(
            "`{text}` is not a format of {}; use one of {}",
            self.name(),
            self.schemes()
        )
    }

    fn refusal(self, text: &str) -> String {
        format!(
            "{text} is a scheme of weights and activations, not of {}; use one of {}",
            self.name(),
            self.schemes()
        )
    }
}

/// Values without scales.
impl From<DType> for Quant {
    fn from(dtype: DType) -> Quant {
        Quant::plain(dtype)
    }
}

impl fmt::Display for Quant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.spelled())
    }
}

impl Quant {
    /// The spelling: of what is customary, the short one.
    fn spelled(self) -> String {
        if let Some((name, _)) = Quant::NAMED.into_iter().find(|(_, quant)| *quant == self)
        {
            return name.to_owned();
        }
        let dtype = self.dtype;
        let zero_points = if self.has_zero_points { "_zp" } else { "" };
        match self.scales.map(|scales| (scales.group, scales.format)) {
            None | Some((ScaleGroup::Channel | ScaleGroup::Head, _)) => dtype.to_string(),
            Some((ScaleGroup::Columns(LATENTS_OF_SCALE), ScaleFormat::F32)) => {
                dtype.to_string()
            }
            Some((ScaleGroup::Columns(GROUP_COLUMNS), _)) if !self.has_zero_points => {
                dtype.to_string()
            }
            Some((ScaleGroup::Columns(columns), _)) => {
                format!("{dtype}_g{columns}{zero_points}")
            }
            Some((ScaleGroup::Tensor, _)) => format!("{dtype}_tensor"),
            Some((ScaleGroup::Token, _)) => format!("{dtype}_token"),
            Some((ScaleGroup::Block { rows, columns }, _)) => {
                format!("{dtype}_block{rows}x{columns}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(text: &str) -> Quant {
        Quant::parse(text, QuantPlace::Weights).unwrap()
    }

    /// A matrix of 4096 output features and 14336 columns (Llama 3.1 8B, down projection)
    /// has 58,720,256 elements. By hand, for each scheme: elements, scales, zero points.
    #[test]
    fn bytes_are_those_counted_by_hand() {
        let elements = 58_720_256;
        for (text, bytes) in [
            ("bf16", 2 * elements),
            // One scale of 4 bytes; 4096; 32 x 112.
            ("fp8_e4m3_tensor", elements + 4),
            ("fp8_e4m3", elements + 16_384),
            ("fp8_e4m3_block128x128", elements + 14_336),
            ("int8", elements + 16_384),
            // 4096 x 448 and 4096 x 112 scales of 2 bytes, zero points of half a byte.
            ("int4_g32", 29_360_128 + 3_670_016),
            ("int4_g128", 29_360_128 + 917_504),
            ("int4_g128_zp", 29_360_128 + 917_504 + 229_376),
            // 4096 x 448 scales of a byte; 4096 x 896 and 4 bytes of the tensor.
            ("mxfp4", 29_360_128 + 1_835_008),
            ("mxfp8", elements + 1_835_008),
            ("nvfp4", 29_360_128 + 3_670_016 + 4),
        ] {
            assert_eq!(weights(text).matrix_bytes(4096, 14_336), bytes, "{text}");
        }
    }

    /// DeepSeek-V3's `kv_a_proj_with_mqa` has 576 output features: 4.5 blocks.
    #[test]
    fn blocks_are_counted_up_and_groups_refused() {
        assert_eq!(weights("fp8_e4m3_block128x128").scale_grid(576, 7168), (5, 56));
        // 2880 columns of gpt-oss are 22.5 groups of 128.
        assert_eq!(weights("int4").scale_grid(16, 2880), (16, 23));
        assert_eq!(weights("mxfp4").check_matrix(1, 48), Err(Misfit::Columns(32)));
        assert_eq!(weights("nvfp4").check_matrix(1, 48), Ok(()));
        assert_eq!(weights("int4_g32").check_matrix(16, 96), Err(Misfit::Columns(64)));
        assert_eq!(weights("int4").check_matrix(8, 128), Err(Misfit::Rows(16)));
    }

    #[test]
    fn long_spellings_of_what_is_customary_become_short() {
        for (place, long, short) in [
            (QuantPlace::Weights, "fp8_e4m3_channel", "fp8_e4m3"),
            (QuantPlace::Weights, "int8_channel", "int8"),
            (QuantPlace::Weights, "int4_g128", "int4"),
            (QuantPlace::Cache, "fp8_e4m3_head", "fp8_e4m3"),
            (QuantPlace::Latents, "fp8_e4m3_g128", "fp8_e4m3"),
        ] {
            let quant = Quant::parse(long, place).unwrap();
            assert_eq!(quant, Quant::parse(short, place).unwrap());
            assert_eq!(quant.to_string(), short);
        }
    }

    #[test]
    fn other_spellings_come_back_as_they_were() {
        let eight_bits = ["tensor", "block128x128", "block1x128"];
        let places = [QuantPlace::Weights, QuantPlace::Activations];
        for place in places {
            for suffix in eight_bits {
                for dtype in ["fp8_e4m3", "int8"] {
                    let text = format!("{dtype}_{suffix}");
                    assert_eq!(Quant::parse(&text, place).unwrap().to_string(), text);
                }
            }
            for text in ["mxfp4", "mxfp8", "nvfp4", "bf16"] {
                assert_eq!(Quant::parse(text, place).unwrap().to_string(), text);
            }
        }
        for text in ["int4_g32", "int4_g64", "int4_g256", "int4_g32_zp", "int4_g128_zp"] {
            assert_eq!(weights(text).to_string(), text);
        }
        for place in [QuantPlace::Cache, QuantPlace::Prompt] {
            let text = "fp8_e4m3_tensor";
            assert_eq!(Quant::parse(text, place).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_a_place_cannot_have_is_refused() {
        for (place, text) in [
            (QuantPlace::Weights, "fp8_e4m3_head"),
            (QuantPlace::Weights, "fp8_e4m3_zp"),
            (QuantPlace::Weights, "int4_g0"),
            (QuantPlace::Weights, "int4_g+32"),
            (QuantPlace::Weights, "int4_g48"),
            (QuantPlace::Weights, "int4_g8192"),
            (QuantPlace::Weights, "int4_tensor"),
            (QuantPlace::Weights, "bf16_tensor"),
            (QuantPlace::Weights, "fp4_e2m1"),
            (QuantPlace::Weights, "fp8_e4m3_block128"),
            (QuantPlace::Weights, "fp8_e4m3_tensor_zp"),
            (QuantPlace::Activations, "int4"),
            (QuantPlace::Cache, "mxfp8"),
            (QuantPlace::Cache, "fp8_e4m3_block1x128"),
            (QuantPlace::Prompt, "fp8_e4m3_head"),
            (QuantPlace::Latents, "fp8_e4m3_tensor"),
        ] {
            assert!(Quant::parse(text, place).is_err(), "{place:?} {text}");
        }
        let of_weights = Quant::weights(DType::Fp8E4m3);
        assert!(of_weights.check_place(QuantPlace::Weights).is_ok());
        assert!(of_weights.check_place(QuantPlace::Cache).is_err());
    }

    /// Every scale is some element's, and neighbours share those that they should.
    #[test]
    fn indices_of_scales_cover_them_all() {
        for text in ["fp8_e4m3", "fp8_e4m3_tensor", "fp8_e4m3_block128x128", "int4_g32"]
            .into_iter()
            .chain(["int4", "mxfp4", "nvfp4"])
        {
            let (quant, shape) = (weights(text), (144, 256));
            let count = quant.scale_count(144, 256);
            let elements = (0..144u64).flat_map(|row| (0..256).map(move |c| (row, c)));
            let mut shared = vec![0; count as usize];
            for (row, column) in elements {
                shared[quant.scale_index(shape, row, column) as usize] += 1;
            }
            assert_eq!(shared.iter().sum::<u64>(), 144 * 256);
            assert!(shared.iter().all(|&elements| elements > 0), "{text}: {shared:?}");
        }
        let blocks = weights("fp8_e4m3_block128x128");
        assert_eq!(blocks.scale_index((144, 256), 128, 128), 3);
        assert_eq!(weights("int4").scale_index((144, 256), 5, 130), 144 + 5);
        assert_eq!(weights("mxfp4").scale_index((144, 256), 5, 130), 5 * 8 + 4);
    }
}
