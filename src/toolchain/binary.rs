//! Machine code, and the digits by which it is found again.

use std::collections::BTreeMap;

use super::arch::Arch;
use super::defines::Defines;
use super::nvrtc::{Resources, Source};

/// Options of every compilation, beside the architecture and the defines.
const OPTIONS: [&str; 3] = ["--std=c++17", "-lineinfo", "--ptxas-options=-v"];

/// What a driver is given to load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageKind {
    /// Machine code for one architecture.
    #[default]
    Cubin,
    /// PTX text, which the driver compiles.
    Ptx,
}

impl ImageKind {
    /// Variable by which people choose it for GPUs, `ptx` or `cubin`: to see what the
    /// driver's own compiler makes of the kernels.
    pub const VARIABLE: &str = "RIDGEPOINT_IMAGE";

    /// What the variable asks for: machine code, unless it is set.
    ///
    /// # Errors
    /// Another value.
    pub fn asked_for() -> Result<Self, String> {
        match std::env::var(Self::VARIABLE).as_deref() {
            Err(_) | Ok("" | "cubin") => Ok(ImageKind::Cubin),
            Ok("ptx") => Ok(ImageKind::Ptx),
            Ok(other) => Err(format!("{}={other}: it can be ptx or cubin", Self::VARIABLE)),
        }
    }
}

/// What a source was compiled to, ready to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    /// The ELF file that a driver loads, or PTX text.
    pub image: Vec<u8>,
    /// Twelve hexadecimal digits of the image's BLAKE3.
    pub hash: String,
    /// Resources of each entry; none of PTX, which is not assembled yet.
    pub resources: BTreeMap<String, Resources>,
    /// Warnings of the compiler and the assembler.
    pub warnings: Vec<String>,
    /// What compiled it, `NVRTC 13.0.88`.
    pub compiler: String,
}

/// Options of a compilation, without the architecture.
pub(super) fn arguments(defines: &Defines) -> Vec<String> {
    OPTIONS.iter().map(|option| option.to_string()).chain(defines.options()).collect()
}

/// Headers that a source may include, itself or by way of another: all whose
/// names stand anywhere in it, however the line is written. A change of any
/// other header does not change the image.
fn included<'a>(source: &Source<'a>) -> Vec<(&'a str, &'a str)> {
    let mut named = vec![false; source.headers.len()];
    let mut texts = vec![source.text];
    while let Some(text) = texts.pop() {
        for ((name, header), named) in source.headers.iter().zip(&mut named) {
            if !*named && text.contains(name) {
                *named = true;
                texts.push(header);
            }
        }
    }
    let headers = source.headers.iter().zip(named);
    headers.filter_map(|(header, named)| named.then_some(*header)).collect()
}

/// Sixteen hexadecimal digits of all that an image depends on, but for the
/// compiler. Every part is preceded by its length.
pub(super) fn key(source: &Source, defines: &Defines, arch: Arch) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut add = |part: &str| {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    };
    add(source.name);
    add(source.text);
    for (name, text) in included(source) {
        add(name);
        add(text);
    }
    add(&arch.compiler_name());
    arguments(defines).iter().for_each(|argument| add(argument));
    hasher.finalize().to_hex()[..16].to_owned()
}

/// The digits of an image in records and manifests.
pub(super) fn short_hash(image: &[u8]) -> String {
    blake3::hash(image).to_hex()[..12].to_owned()
}
