//! What the ELF file that a driver loads says about the parameters of its entries, and
//! which images are PTX text.

use thiserror::Error;

/// Section of an entry's attributes, before the entry's name.
const SECTION: &str = ".nv.info.";

/// Attribute of one parameter: its position, offset and size.
const PARAM: u8 = 0x17;

/// Attribute of all parameters: their size together.
const ALL_PARAMS: u8 = 0x19;

/// Form of an attribute whose value is the two bytes after its code.
const SHORT: u8 = 3;

/// Form of an attribute with a payload, whose size is the two bytes after its code.
const SIZED: u8 = 4;

/// Why an image does not say what an entry's parameters are.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ImageError {
    /// It ends too early, or is not an ELF file.
    #[error("the image is not a whole ELF file; compile it again")]
    Damaged,
    /// It has no such entry.
    #[error("the image has no section {SECTION}{entry}")]
    NoEntry {
        /// The entry.
        entry: String,
    },
    /// Its attributes contradict each other, or are those of another format.
    #[error(
        "section {SECTION}{entry} of the image describes parameters in a way that is not known \
         here; use a driver of CUDA 12.4 or later, which answers for itself"
    )]
    Unknown {
        /// The entry.
        entry: String,
    },
}

/// The text of an image that is PTX: it is no ELF file, and has no zeros.
pub fn ptx(image: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(image).ok()?;
    (!image.starts_with(b"\x7fELF") && !text.contains('\0')).then_some(text)
}

/// Bytes of each parameter that an entry of a compiled image declares.
///
/// # Errors
/// An image that is damaged, lacks the entry, or describes parameters in a way that is not
/// known here.
pub fn param_bytes(image: &[u8], entry: &str) -> Result<Vec<usize>, ImageError> {
    let name = format!("{SECTION}{entry}");
    let attributes = section(image, name.as_bytes()).ok_or(ImageError::Damaged)?;
    let attributes =
        attributes.ok_or_else(|| ImageError::NoEntry { entry: entry.to_owned() })?;
    params(attributes).ok_or_else(|| ImageError::Unknown { entry: entry.to_owned() })
}

/// Sizes from the attributes of an entry; `None` where they do not add up.
fn params(mut attributes: &[u8]) -> Option<Vec<usize>> {
    let mut params = Vec::new();
    let mut total = 0;
    while !attributes.is_empty() {
        let (form, code) = (*attributes.first()?, *attributes.get(1)?);
        let value = u16_at(attributes, 2)?;
        let payload_bytes = if form == SIZED { usize::from(value) } else { 0 };
        let payload = attributes.get(4..4 + payload_bytes)?;
        match (form, code) {
            (SIZED, PARAM) => {
                let (position, offset) = (u16_at(payload, 4)?, u16_at(payload, 6)?);
                // The lower bits are about alignment and address spaces.
                params.push((position, usize::from(offset), u32_at(payload, 8)? >> 18));
            }
            (SHORT, ALL_PARAMS) => total = usize::from(value),
            _ => {}
        }
        attributes = &attributes[4 + payload_bytes..];
    }
    params.sort_unstable();
    let positions = params.iter().map(|&(position, ..)| usize::from(position));
    let end = params.last().map_or(0, |&(_, offset, bytes)| offset + bytes as usize);
    let whole = positions.eq(0..params.len()) && end == total;
    whole.then(|| params.iter().map(|&(.., bytes)| bytes as usize).collect())
}

/// The content of an ELF file's section; `None` for a damaged file, and within for a
/// section that it does not have.
fn section<'a>(image: &'a [u8], name: &[u8]) -> Option<Option<&'a [u8]>> {
    // 64 bits, little-endian: all images of CUDA.
    image.strip_prefix(b"\x7fELF\x02\x01")?;
    let table = usize::try_from(u64_at(image, 0x28)?).ok()?;
    let entry_bytes = usize::from(u16_at(image, 0x3a)?);
    let count = usize::from(u16_at(image, 0x3c)?);
    let header = |index: usize| image.get(table.checked_add(index * entry_bytes)?..);
    let content = |header: &[u8]| {
        let first = usize::try_from(u64_at(header, 0x18)?).ok()?;
        let bytes = usize::try_from(u64_at(header, 0x20)?).ok()?;
        image.get(first..first.checked_add(bytes)?)
    };
    let names = content(header(usize::from(u16_at(image, 0x3e)?))?)?;
    for index in 0..count {
        let header = header(index)?;
        let rest = names.get(u32_at(header, 0)? as usize..)?;
        if rest.strip_prefix(name).is_some_and(|rest| rest.first() == Some(&0)) {
            return Some(Some(content(header)?));
        }
    }
    Some(None)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An attribute of one parameter, as NVRTC 13.0 writes it.
    fn param(position: u16, offset: u16, bytes: u32) -> Vec<u8> {
        let mut attribute = vec![SIZED, PARAM, 12, 0, 0, 0, 0, 0];
        attribute.extend(position.to_le_bytes());
        attribute.extend(offset.to_le_bytes());
        attribute.extend((bytes << 18 | 0x1_f000).to_le_bytes());
        attribute
    }

    fn all(bytes: u16) -> Vec<u8> {
        [[SHORT, ALL_PARAMS], bytes.to_le_bytes()].concat()
    }

    /// An ELF file of a table of names and one more section.
    fn image(section: &str, content: &[u8]) -> Vec<u8> {
        let names = [b"\0", section.as_bytes(), b"\0"].concat();
        let mut image = vec![0; 64];
        image[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let mut headers = Vec::new();
        for (name, content) in [(0u32, &names[..]), (1, content)] {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&(image.len() as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(content.len() as u64).to_le_bytes());
            image.extend(content);
            headers.extend(header);
        }
        let table = image.len() as u64;
        image.extend(headers);
        image[0x28..0x30].copy_from_slice(&table.to_le_bytes());
        image[0x3a..0x3c].copy_from_slice(&64u16.to_le_bytes());
        image[0x3c..0x3e].copy_from_slice(&2u16.to_le_bytes());
        image
    }

    #[test]
    fn sizes_are_those_of_the_entry() {
        let others = [4, 0x0a, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 0x50, 0, 0];
        // The compiler lists the last parameter first.
        let attributes =
            [&others[..], &param(2, 64, 128), &param(1, 8, 8), &param(0, 0, 8), &all(192)]
                .concat();
        let file = image(".nv.info.k", &attributes);
        assert_eq!(param_bytes(&file, "k"), Ok(vec![8, 8, 128]));
        let without = image(".nv.info.k", &others);
        assert_eq!(param_bytes(&without, "k"), Ok(vec![]));
        for entry in ["", "kk", "nv"] {
            let missing = ImageError::NoEntry { entry: entry.to_owned() };
            assert_eq!(param_bytes(&file, entry), Err(missing));
        }
    }

    #[test]
    fn attributes_that_do_not_add_up_are_not_guessed_at() {
        let unknown = Err(ImageError::Unknown { entry: "k".to_owned() });
        for attributes in [
            [param(0, 0, 8), all(16)].concat(),
            [param(1, 8, 8), all(16)].concat(),
            param(0, 0, 8),
            all(8),
            vec![SIZED, PARAM, 12, 0, 0],
        ] {
            assert_eq!(param_bytes(&image(".nv.info.k", &attributes), "k"), unknown);
        }
    }

    #[test]
    fn a_file_that_is_cut_is_damaged() {
        let attributes = [param(0, 0, 8), all(8)].concat();
        let whole = image(".nv.info.k", &attributes);
        assert_eq!(param_bytes(&whole, "k"), Ok(vec![8]));
        // What follows the fields of the last header is not looked at.
        for end in 0..whole.len() - 0x18 {
            assert_eq!(param_bytes(&whole[..end], "k"), Err(ImageError::Damaged), "{end}");
        }
        assert_eq!(param_bytes(b"text", "k"), Err(ImageError::Damaged));
    }
}
