//! What PTX declares of each entry: its parameters and the launch it is
//! compiled for.

use std::collections::BTreeMap;

use super::log::Resources;

/// Adds what PTX declares to what the assembler said.
pub(super) fn complete(resources: &mut BTreeMap<String, Resources>, ptx: &str) {
    for declaration in ptx.split(".entry ").skip(1) {
        let Some((name, rest)) = declaration.split_once('(') else { continue };
        let Some(resources) = resources.get_mut(name.trim()) else { continue };
        let Some((params, rest)) = rest.split_once(')') else { continue };
        let Some((directives, _)) = rest.split_once('{') else { continue };
        resources.param_bytes = params.split(',').fold(0, after_param);
        resources.max_threads = numbers(directives, ".maxntid")
            .or_else(|| numbers(directives, ".reqntid"))
            .map(|sizes| sizes.iter().product());
        resources.min_blocks =
            numbers(directives, ".minnctapersm").and_then(|n| n.first().copied());
    }
}

/// Where a parameter that is declared after `offset` bytes ends:
/// `.param .align 8 .b8 stream_read_param_0[56]`, `.param .u64 k_param_0`.
fn after_param(offset: u32, declaration: &str) -> u32 {
    let words: Vec<&str> = declaration.split_whitespace().collect();
    let Some(width) = words.iter().find_map(|word| bytes_of_type(word)) else {
        return offset;
    };
    let aligned = words.iter().position(|word| *word == ".align");
    // `.ptr .align` is about what a pointer points to.
    let aligned = aligned.filter(|_| !words.contains(&".ptr"));
    let align = aligned.and_then(|at| words.get(at + 1)?.parse().ok()).unwrap_or(width);
    let length = declaration
        .split_once('[')
        .and_then(|(_, rest)| rest.split(']').next()?.trim().parse().ok())
        .unwrap_or(1);
    offset.next_multiple_of(align) + width * length
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
    }
}
