//! Prompts of requests in kernels, and the order in which blocks take their rows: the host
//! half of `kernels/prompt.cuh`.

use std::cmp::Reverse;

use bytemuck::{Pod, Zeroable};

use super::refusal::{Refusal, refuse_unless};
use crate::op::{Lengths, PrefillAttention};

/// Bytes of keys and values that heads which run together may have, so that
/// they stay in L2 from the first block that reads them to the last. Half of
/// what the smallest data-centre GPUs have.
const SECTION_BYTES: u64 = 16 << 20;
/// Most tokens: kernels count them in 32 bits, with room for tiles beyond the end.
pub(super) const MAX_COUNT: u64 = 1 << 30;
/// The work list.
pub(super) const WORK: &str = "work";

/// `Prompt` of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Prompt {
    pub row: u32,
    pub new_tokens: u32,
    pub context: u32,
    pub reach: u32,
}

impl Prompt {
    /// The longest that a request could have; where all are equal, that of each.
    pub fn longest(p: &PrefillAttention) -> Self {
        Prompt {
            row: 0,
            new_tokens: p.new_tokens as u32,
            context: p.context() as u32,
            reach: p.attended(0).end as u32,
        }
    }
}

/// `Item` of kernels: rows of one head, as many as a block computes at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Item {
    pub head: u32,
    pub kv_head: u32,
    pub token: u32,
    pub next: u32,
    pub prompt: Prompt,
}

/// A request of a batch.
struct Request {
    number: u64,
    /// The problem that it is by itself.
    p: PrefillAttention,
    prompt: Prompt,
}

fn requests(p: &PrefillAttention) -> Vec<Request> {
    let mut next_row = 0;
    let of_number = |number| {
        let request = p.request(number);
        let row = next_row;
        if p.lengths != Lengths::Equal {
            next_row += request.new_tokens as u32;
        }
        let prompt = Prompt { row, ..Prompt::longest(&request) };
        Request { number, p: request, prompt }
    };
    (0..p.batch).map(of_number).collect()
}

/// Bytes of the keys and values of one head of a request.
fn cache_bytes(p: &PrefillAttention) -> u64 {
    p.context() * (p.head_dim + p.v_head_dim) * p.kv_dtype.dtype().bytes()
}

/// Query heads that run together: whole groups, as many as have keys and
/// values that fit.
pub(super) fn section(p: &PrefillAttention) -> u64 {
    let groups = (SECTION_BYTES / cache_bytes(p)).clamp(1, p.batch * p.kv_heads);
    groups * p.group()
}

/// All rows of all requests as items of `rows` rows, without links, each with its `cost`: of
/// the rows of a request from a token on.
///
/// The longest requests come first. Heads whose keys and values fit in L2 come together, and
/// among them the items that cost the most first; the heads of a KV head stand side by side.
pub(super) fn items(
    p: &PrefillAttention,
    rows: u64,
    cost: impl Fn(&PrefillAttention, u64) -> u64,
) -> Vec<(Item, u64)> {
    let mut requests = requests(p);
    requests.sort_by_key(|request| Reverse(request.p.context()));
    let kv_heads = requests
        .iter()
        .flat_map(|request| (0..p.kv_heads).map(move |kv_head| (request, kv_head)));
    let mut sections: Vec<Vec<(&Request, u64)>> = Vec::new();
    let mut room = 0;
    for (request, kv_head) in kv_heads {
        let bytes = cache_bytes(&request.p);
        if bytes > room || sections.is_empty() {
            sections.push(Vec::new());
            room = SECTION_BYTES.max(bytes);
        }
        room -= bytes;
        sections.last_mut().expect("there is one").push((request, kv_head));
    }
    sections.iter().flat_map(|section| items_of(section, p, rows, &cost)).collect()
}

/// The items of some KV heads, those that cost the most first, of the same cost the last
/// tokens.
fn items_of(
    kv_heads: &[(&Request, u64)],
    p: &PrefillAttention,
    rows: u64,
    cost: impl Fn(&PrefillAttention, u64) -> u64,
) -> Vec<(Item, u64)> {
    let of_request = |request: &Request| request.p.new_tokens.div_ceil(rows);
    let most = kv_heads.iter().map(|(request, _)| of_request(request)).max().unwrap_or(0);
    let mut items = Vec::new();
    for tile in (0..most).rev() {
        for (request, kv_head) in kv_heads.iter().filter(|(r, _)| tile < of_request(r)) {
            let cost = cost(&request.p, tile * rows);
            // Numbered across requests where rows of a head lie together.
            let before = match p.lengths {
                Lengths::Equal => request.number * p.q_heads,
                Lengths::Ragged => 0,
            };
            let heads = kv_head * p.group()..(kv_head + 1) * p.group();
            items.extend(heads.map(|head| {
                let item = Item {
                    head: (before + head) as u32,
                    kv_head: (request.number * p.kv_heads + kv_head) as u32,
                    token: (tile * rows) as u32,
                    next: 0,
                    prompt: request.prompt,
                };
                (item, cost)
            }));
        }
    }
    items.sort_by_key(|(_, cost)| Reverse(*cost));
    items
}

/// Refuses what kernels do not count in 32 bits.
pub(super) fn check_counts(p: &PrefillAttention) -> Result<(), Refusal> {
    refuse_unless(p.context() <= MAX_COUNT, || {
        format!("contexts up to {MAX_COUNT}, not {}; use shorter ones", p.context())
    })?;
    let is_ragged = p.lengths != Lengths::Equal;
    let tokens = if is_ragged { p.all_new_tokens() } else { p.new_tokens };
    refuse_unless(tokens <= MAX_COUNT, || {
        format!(
            "up to {MAX_COUNT} new tokens of requests of several lengths, not {tokens}; use a \
             smaller batch"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::contract::testing::operation;

    fn problem(rest: &str) -> PrefillAttention {
        operation(&format!("prefill_attention:{rest}"))
    }

    /// 16 MiB are 32,768 keys and values of 256 bytes.
    #[test]
    fn heads_run_together_while_their_keys_fit_l2() {
        let heads = |context: u64| {
            section(&problem(&format!(
                "batch=1,new_tokens={context},q_heads=32,kv_heads=8,head_dim=128,dtype=bf16"
            )))
        };
        assert_eq!(
            [heads(1024), heads(8192), heads(16384), heads(100_000)],
            [32, 16, 8, 4]
        );
    }

    /// Every row of every request is in one item, whatever the lengths, and no item reaches
    /// beyond its request but the last.
    #[test]
    fn items_are_all_rows_of_all_requests_once() {
        for lengths in ["equal", "ragged"] {
            let p = problem(&format!(
                "batch=9,prefix=10,new_tokens=300,q_heads=6,kv_heads=2,head_dim=128,\
                 dtype=bf16,lengths={lengths}"
            ));
            let items = items(&p, 128, |_, token| token);
            let mut rows: Vec<(u32, u32)> = Vec::new();
            let mut next_row = 0;
            for number in 0..p.batch {
                let request = p.request(number);
                let prompt = Prompt {
                    row: if lengths == "equal" { 0 } else { next_row },
                    ..Prompt::longest(&request)
                };
                next_row += request.new_tokens as u32;
                for head in 0..6 {
                    let of_list =
                        if lengths == "equal" { number as u32 * 6 + head } else { head };
                    let kv_head = number as u32 * 2 + head / 3;
                    let mut tokens: Vec<u32> = items
                        .iter()
                        .filter(|(item, _)| (item.head, item.kv_head) == (of_list, kv_head))
                        .map(|(item, _)| {
                            assert_eq!(item.prompt, prompt);
                            item.token
                        })
                        .collect();
                    tokens.sort_unstable();
                    let all: Vec<u32> = (0..prompt.new_tokens).step_by(128).collect();
                    assert_eq!(tokens, all, "{lengths}: request {number}, head {head}");
                    rows.extend(tokens.iter().map(|token| (kv_head, *token)));
                }
            }
            assert_eq!(rows.len(), items.len());
        }
    }

    #[test]
    fn the_longest_come_first() {
        // Keys and values of one head of 8192 tokens are 4 MiB: sections of four or more.
        let p = problem(
            "batch=12,new_tokens=8192,q_heads=4,kv_heads=2,head_dim=128,dtype=bf16,\
             lengths=ragged",
        );
        let costs = items(&p, 128, |request, token| request.attended(token).end);
        let context = |at: usize| costs[at].0.prompt.context;
        let longest = (0..12).map(|r| p.request(r).context()).max().unwrap();
        let shortest = (0..12).map(|r| p.request(r).context()).min().unwrap();
        assert_eq!(u64::from(context(0)), longest);
        assert_eq!(u64::from(context(costs.len() - 1)), shortest);
        // The two heads of a KV head side by side.
        let (a, b) = (costs[0].0, costs[1].0);
        assert_eq!((a.kv_head, a.token), (b.kv_head, b.token));
        // A section has as many bytes as stay in L2, and falls from cost to cost.
        let falls = costs.windows(2).filter(|pair| pair[0].1 < pair[1].1).count();
        let bytes: u64 = (0..12).map(|r| 2 * cache_bytes(&p.request(r))).sum();
        assert!(falls < bytes.div_ceil(SECTION_BYTES / 2) as usize, "{falls}");
    }

    #[test]
    fn too_many_tokens_are_refused() {
        let p = problem(
            "batch=1000000,new_tokens=4000,q_heads=1,kv_heads=1,head_dim=64,dtype=bf16,\
             lengths=ragged",
        );
        let why = check_counts(&p).unwrap_err().to_string();
        assert!(
            why.contains("up to 1073741824 new tokens of requests of several lengths"),
            "{why}"
        );
        let equal = PrefillAttention { lengths: Lengths::Equal, ..p };
        assert!(check_counts(&equal).is_ok());
    }
}
