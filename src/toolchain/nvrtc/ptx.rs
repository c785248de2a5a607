//! What PTX declares of each entry: its parameters and the launch it is
//! compiled for.

use std::collections::BTreeMap;

use super::log::Resources;

/// The declaration of an entry: its name, its parameters, its directives.
type Declaration<'a> = (&'a str, &'a str, &'a str);

/// Adds what PTX declares to what the assembler said.
pub(super) fn complete(resources: &mut BTreeMap<String, Resources>, ptx: &str) {
    for (name, params, directives) in declarations(ptx) {
        let Some(resources) = resources.get_mut(name) else { continue };
        resources.param_bytes = sizes(params).last().map_or(0, |&(end, _)| end);
        resources.max_threads = numbers(directives, ".maxntid")
            .or_else(|| numbers(directives, ".reqntid"))
            .map(|sizes| sizes.iter().product());
        resources.min_blocks =
            numbers(directives, ".minnctapersm").and_then(|n| n.first().copied());
    }
}

/// Bytes of each parameter that PTX declares for an entry; `None` for an entry that it does
/// not have.
pub fn param_bytes(ptx: &str, entry: &str) -> Option<Vec<usize>> {
    let (_, params, _) = declarations(ptx).find(|(name, ..)| *name == entry)?;
    Some(sizes(params).iter().map(|&(_, bytes)| bytes as usize).collect())
}

fn declarations(ptx: &str) -> impl Iterator<Item = Declaration<'_>> {
    ptx.split(".entry ").skip(1).filter_map(|declaration| {
        let (name, rest) = declaration.split_once('(')?;
        let (params, rest) = rest.split_once(')')?;
        let (directives, _) = rest.split_once('{')?;
        Some((name.trim(), params, directives))
    })
}

/// Where each parameter ends, and its bytes.
fn sizes(params: &str) -> Vec<(u32, u32)> {
    let mut end = 0;
    let size = |declaration| {
        let (align, bytes) = size(declaration)?;
        end = u32::next_multiple_of(end, align) + bytes;
        Some((end, bytes))
    };
    params.split(',').filter_map(size).collect()
}

/// Alignment and bytes of a parameter: `.param .align 8 .b8 stream_read_param_0[56]`,
/// `.param .u64 k_param_0`.
fn size(declaration: &str) -> Option<(u32, u32)> {
    let words: Vec<&str> = declaration.split_whitespace().collect();
    let width = words.iter().find_map(|word| bytes_of_type(word))?;
    let aligned = words.iter().position(|word| *word == ".align");
    // `.ptr .align` is about what a pointer points to.
    let aligned = aligned.filter(|_| !words.contains(&".ptr"));
    let align = aligned.and_then(|at| words.get(at + 1)?.parse().ok()).unwrap_or(width);
    let length = declaration
        .split_once('[')
        .and_then(|(_, rest)| rest.split(']').next()?.trim().parse().ok())
        .unwrap_or(1);
    Some((align, width * length))
}

/// Bytes of a scalar type such as `.u64`.
fn bytes_of_type(word: &str) -> Option<u32> {
    let bits = word.strip_prefix(['.'])?.strip_prefix(['b', 'u', 's', 'f'])?;
    match bits {
        "8" => Some(1),
        "16" => Some(2),
        "32" => Some(4),
        "64" => Some(8),
        _ => None,
    }
}

/// The numbers of a directive: `.maxntid 512, 1, 1`.
fn numbers(directives: &str, name: &str) -> Option<Vec<u32>> {
    let (_, rest) = directives.split_once(name)?;
    let line = rest.lines().next()?;
    line.split(',').map(|number| number.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PTX: &str = "
.visible .entry stream_read(
\t.param .align 8 .b8 stream_read_param_0[56]
)
.maxntid 512, 2, 1
.minnctapersm 2
{
\tld.param.u64 \t%rd4, [stream_read_param_0+40];
}
.visible .entry fill(
\t.param .u32 fill_param_0,
\t.param .u64 .ptr .global .align 16 fill_param_1,
\t.param .align 64 .b8 fill_param_2[128]
)
{
}
.visible .entry empty()
{
}
";

    #[test]
    fn declarations_are_read() {
        let names = ["stream_read", "fill", "empty", "absent"];
        let mut resources =
            names.map(|name| (name.to_owned(), Resources::default())).into();
        complete(&mut resources, PTX);
        let of = |name: &str| {
            let r = &resources[name];
            (r.param_bytes, r.max_threads, r.min_blocks)
        };
        assert_eq!(of("stream_read"), (56, Some(1024), Some(2)));
        assert_eq!(of("fill"), (192, None, None));
        assert_eq!(of("empty"), (0, None, None));
        assert_eq!(of("absent"), (0, None, None));
        let params = |name| param_bytes(PTX, name);
        assert_eq!(params("stream_read"), Some(vec![56]));
        assert_eq!(params("fill"), Some(vec![4, 8, 128]));
        assert_eq!(params("empty"), Some(vec![]));
        assert_eq!(params("absent"), None);
    }
}
