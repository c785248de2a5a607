//! Machine code, and the digits by which it is found again.

use std::collections::BTreeMap;

use super::arch::Arch;
use super::defines::Defines;
use super::nvrtc::{Resources, Source};

/// Options of every compilation, beside the architecture and the defines.
const OPTIONS: [&str; 3] = ["--std=c++17", "-lineinfo", "--ptxas-options=-v"];

/// Machine code of a source, ready to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    /// The ELF file that a driver loads.
    pub image: Vec<u8>,
    /// Twelve hexadecimal digits of the image's BLAKE3.
    pub hash: String,
    /// Resources of each entry.
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
