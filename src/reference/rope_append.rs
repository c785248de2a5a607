//! Answers of rotating and appending.

use std::ops::Range;

use super::compare::{CheckedOutput, Rows};
use super::kv_source::paged_row;
use super::{Answer, Check, NoReference, SlotInputs};
use crate::data::Key;
use crate::format::{Role, Tensor};
use crate::op::{CachePages, RopeAppend};

/// A head, turned by a position: elements `i` and `i + d / 2` are a pair.
pub(super) fn rotated(p: &RopeAppend, head: &[f32], position: u64) -> Vec<f64> {
    let pairs = head.len() / 2;
    let element = |i: usize| {
        let angle = position as f64 * p.frequency((i % pairs) as u64);
        let (sine, cosine) = angle.sin_cos();
        let other = f64::from(head[(i + pairs) % head.len()]);
        f64::from(head[i]) * cosine + if i < pairs { -other } else { other } * sine
    };
    (0..head.len()).map(element).collect()
}

/// New heads of a problem, and where they belong.
#[derive(Clone)]
struct Source {
    p: RopeAppend,
    qkv: Key,
    table: Vec<u32>,
}

/// One of the outputs: a part of the heads of each token.
#[derive(Clone, Copy)]
struct Part {
    first_head: u64,
    heads: u64,
    is_rotated: bool,
}

impl Source {
    /// The elements of a head, as the output is to have them.
    fn head(&self, request: u64, head: u64, is_rotated: bool) -> Vec<f64> {
        let RopeAppend { head_dim, dtype, .. } = self.p;
        let mut x = vec![0.0; head_dim as usize];
        self.qkv.values(dtype, (request * self.p.heads() + head) * head_dim, &mut x);
        match is_rotated {
            true => rotated(&self.p, &x, self.p.position(request)),
            false => x.into_iter().map(f64::from).collect(),
        }
    }

    /// Row of a tensor, in head widths, that a request's head of queries, or of keys or
    /// values, belongs in.
    fn row(&self, tensor: &Tensor, request: u64, head: u64) -> u64 {
        if tensor.role == Role::Output {
            return request * self.p.q_heads + head;
        }
        let page = u64::from(self.table[self.p.entry(request) as usize]);
        let place = self.p.position(request) % self.p.paging().0;
        paged_row(self.p.paging(), self.p.kv_heads, (page, head, place))
    }

    /// The heads of an output.
    fn rows(&self, tensor: Tensor, part: Part) -> Rows<'_> {
        let make = move |row: u64| {
            let (request, head) = (row / part.heads, row % part.heads);
            let to = self.row(&tensor, request, head) * self.p.head_dim;
            (to, self.head(request, part.first_head + head, part.is_rotated))
        };
        Rows {
            count: self.p.batch * part.heads,
            cost: self.p.head_dim,
            rows: 1,
            width: self.p.head_dim as usize,
            // Uniform in [-1, 1), and a rotation keeps sizes.
            typical: part.is_rotated.then(|| (1.0f64 / 3.0).sqrt()),
            make: Box::new(make),
        }
    }
}

impl RopeAppend {
    /// Names and extents of the dimensions of an output.
    fn axes_of(&self, tensor: &Tensor) -> Vec<(&'static str, u64)> {
        let dim = ("dim", self.head_dim);
        if tensor.role == Role::Output {
            return vec![("batch", self.batch), ("q head", self.q_heads), dim];
        }
        let (heads, places) = (("kv head", self.kv_heads), ("place", self.paging().0));
        let (outer, inner) =
            if self.layout.is_token_first() { (places, heads) } else { (heads, places) };
        vec![("page", self.batch * self.pages()), outer, inner, dim]
    }
}

impl Answer for RopeAppend {
    /// Those of the three outputs together: each is compared with its own.
    fn axes(&self) -> Vec<(&'static str, u64)> {
        let heads = self.query_elements() + 2 * self.cache_elements();
        vec![("head", heads / self.head_dim), ("dim", self.head_dim)]
    }

    fn compare(
        &self,
        target: &CheckedOutput<'_>,
        inputs: &SlotInputs,
    ) -> Result<Check, NoReference> {
        let p = *self;
        if p.dtype.is_scaled() {
            let message = format!("there is no reference for rope_append in {}", p.dtype);
            return Err(NoReference(message));
        }
        let table = inputs.key("page_table").page_table((p.batch * p.pages()) as usize);
        let source = Source { p, qkv: inputs.key("qkv"), table };
        let parts =
            [(0, p.q_heads), (p.q_heads, p.kv_heads), (p.q_heads + p.kv_heads, p.kv_heads)];
        let outputs = crate::op::Operation::tensors(self).into_iter();
        let outputs = outputs.filter(|tensor| tensor.role != Role::Input);
        let (mut check, mut start) = (Check::new(), 0);
        for (tensor, (first_head, heads)) in outputs.zip(parts) {
            let part = Part { first_head, heads, is_rotated: tensor.name != "v" };
            let rows = source.rows(tensor, part);
            if let Some(target) = target.part(tensor, p.axes_of(&tensor), start) {
                let stray = match tensor.role {
                    Role::Update => target.scan_rest(&rows),
                    _ => target.scan(),
                };
                check = check.and(stray.unwrap_or_else(|| target.compare_rows(&rows)));
            }
            start += tensor.elements;
        }
        Ok(check)
    }

    /// Entries of the page table for pages that no new token falls into.
    fn unneeded(&self, _: &SlotInputs) -> Vec<(&'static str, Range<u64>)> {
        if self.pages == CachePages::Touched {
            return Vec::new();
        }
        let of_request = |request| {
            let all = request * self.pages()..(request + 1) * self.pages();
            let needed = self.entry(request);
            [all.start..needed, needed + 1..all.end]
        };
        let ranges = (0..self.batch).flat_map(of_request).filter(|range| !range.is_empty());
        ranges.map(|range| ("page_table", 4 * range.start..4 * range.end)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{SEED, checked, key, problem};
    use crate::format::DType;
    use crate::op::{Problem, RopeAppend};
    use crate::reference::{CheckVerdict, check, check_end, unneeded};

    /// Mistakes that kernels make.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Bug {
        None,
        NoRotation,
        ValuesRotated,
        NeighboursArePairs,
        OtherWay,
        NextPosition,
        BaseOfLlama2,
        FrequencyOfWholeHead,
        KeysBeforeQueries,
        HeadsSwapped,
        FirstPage,
        KeyMissing,
        QueryMissing,
        Stray,
    }

    const HEAD_DIM: usize = 16;
    const Q_HEADS: usize = 4;
    const KV_HEADS: usize = 2;
    const HEADS: usize = Q_HEADS + 2 * KV_HEADS;

    fn text(rest: &str) -> String {
        format!(
            "rope_append:batch=3,context=700,q_heads={Q_HEADS},kv_heads={KV_HEADS},\
             head_dim={HEAD_DIM},dtype=f32,lengths=ragged,{rest}"
        )
    }

    fn operation(text: &str) -> RopeAppend {
        match problem(text) {
            Problem::RopeAppend(p) => p,
            other => panic!("{other}"),
        }
    }

    /// A head turned by complex numbers, frequencies one from the other by a factor.
    fn turned(x: &[f64], position: f64, bug: Bug) -> Vec<f64> {
        let half = HEAD_DIM / 2;
        let base: f64 = if bug == Bug::BaseOfLlama2 { 1e4 } else { 5e5 };
        let pairs = if bug == Bug::FrequencyOfWholeHead { HEAD_DIM } else { half };
        let factor = (-base.ln() / pairs as f64).exp();
        let position = if bug == Bug::NextPosition { position + 1.0 } else { position };
        let mut y = x.to_vec();
        let mut angle = if bug == Bug::OtherWay { -position } else { position };
        for pair in 0..half {
            let (i, j) = match bug {
                Bug::NeighboursArePairs => (2 * pair, 2 * pair + 1),
                _ => (pair, pair + half),
            };
            y[i] = x[i] * angle.cos() - x[j] * angle.sin();
            y[j] = x[i] * angle.sin() + x[j] * angle.cos();
            angle *= factor;
        }
        y
    }

    /// What a kernel writes, poison elsewhere.
    fn output(text: &str, bug: Bug) -> Vec<f32> {
        let p = operation(text);
        let (pages, page_size) = (p.pages() as usize, p.paging().0 as usize);
        let table = key(1).page_table(3 * pages);
        let (q_len, cache_len) =
            (3 * Q_HEADS * HEAD_DIM, 3 * pages * page_size * KV_HEADS * HEAD_DIM);
        let poison = f32::from_bits(u32::MAX);
        let mut out = vec![poison; q_len + 2 * cache_len];
        for request in 0..3 {
            let position = p.position(request as u64) as usize;
            let entry =
                if pages == 1 || bug == Bug::FirstPage { 0 } else { position / page_size };
            let page = table[request * pages + entry] as usize;
            for head in 0..HEADS {
                let from = match bug {
                    Bug::KeysBeforeQueries => (head + KV_HEADS) % HEADS,
                    Bug::HeadsSwapped => head ^ 1,
                    _ => head,
                };
                let x: Vec<f64> = (0..HEAD_DIM)
                    .map(|i| (request * HEADS + from) * HEAD_DIM + i)
                    .map(|at| key(0).value(DType::F32, at as u64).into())
                    .collect();
                let is_value = head >= Q_HEADS + KV_HEADS;
                let y = match bug {
                    Bug::NoRotation => x,
                    _ if is_value && bug != Bug::ValuesRotated => x,
                    _ => turned(&x, position as f64, bug),
                };
                let to = if head < Q_HEADS {
                    (request * Q_HEADS + head) * HEAD_DIM
                } else {
                    let kv_head = (head - Q_HEADS) % KV_HEADS;
                    let (place, part) = (position % page_size, usize::from(is_value));
                    let row = match p.layout.is_token_first() {
                        true => (page * page_size + place) * KV_HEADS + kv_head,
                        false => (page * KV_HEADS + kv_head) * page_size + place,
                    };
                    q_len + part * cache_len + row * HEAD_DIM
                };
                let is_left_out = match bug {
                    Bug::KeyMissing => (request, head) == (1, Q_HEADS),
                    Bug::QueryMissing => (request, head) == (2, 1),
                    _ => false,
                };
                if !is_left_out {
                    y.iter().zip(&mut out[to..]).for_each(|(&y, to)| *to = y as f32);
                }
            }
        }
        if bug == Bug::Stray {
            let free = (q_len..out.len()).rev().find(|&at| out[at].to_bits() == u32::MAX);
            out[free.unwrap()] = 0.0;
        }
        out
    }

    #[test]
    fn planted_mistakes_are_found() {
        for rest in [
            "layout=paged16",
            "layout=paged16_nhd,pages=whole",
            "layout=paged3,pages=whole",
        ] {
            let text = text(rest);
            let verdict = |bug| checked(&text, bytemuck::cast_slice(&output(&text, bug)));
            let right = verdict(Bug::None);
            assert_eq!(right.message, "", "{rest}");
            assert_eq!(right.elements, (3 * HEADS * HEAD_DIM) as u64);
            let mut bugs = vec![
                Bug::NoRotation,
                Bug::ValuesRotated,
                Bug::NeighboursArePairs,
                Bug::OtherWay,
                Bug::NextPosition,
                Bug::BaseOfLlama2,
                Bug::FrequencyOfWholeHead,
                Bug::KeysBeforeQueries,
                Bug::HeadsSwapped,
                Bug::KeyMissing,
                Bug::QueryMissing,
                Bug::Stray,
            ];
            if rest.contains("whole") {
                bugs.push(Bug::FirstPage);
            }
            for bug in bugs {
                assert_eq!(verdict(bug).verdict, CheckVerdict::Fail, "{rest}: {bug:?}");
            }
        }
    }

    #[test]
    fn an_element_is_named_by_its_own_output() {
        let text = text("layout=paged16");
        let message = |change: &dyn Fn(&mut [f32])| {
            let mut wrong = output(&text, Bug::None);
            change(&mut wrong);
            checked(&text, bytemuck::cast_slice(&wrong)).message
        };
        let query = message(&|out| out[Q_HEADS * HEAD_DIM + 3] += 1.0);
        assert!(query.contains("q at batch 1, q head 0, dim 3 is"), "{query}");
        let missing = message(&|out| out[0] = f32::NAN);
        assert!(missing.contains("q at batch 0, q head 0, dim 0 is NaN"), "{missing}");
        // Values are compared to the last bit.
        let value = message(&|out| {
            let last = out.iter().rposition(|x| x.to_bits() != u32::MAX).unwrap();
            out[last] = f32::from_bits(out[last].to_bits() ^ 1);
        });
        assert!(value.contains("v at page ") && value.contains("dim 15 is"), "{value}");
        let stray = output(&text, Bug::Stray);
        let found = checked(&text, bytemuck::cast_slice(&stray)).message;
        assert!(found.contains("the row of v at page 2") && found.contains("no new token"));
    }

    /// The end alone, which begins within the values.
    #[test]
    fn the_end_of_the_values_is_compared() {
        let text = text("layout=paged1");
        let out = output(&text, Bug::None);
        let end = &out[out.len() - 2 * KV_HEADS * HEAD_DIM..];
        let found = check_end(&problem(&text), SEED, 0, bytemuck::cast_slice(end)).unwrap();
        assert_eq!(
            (found.elements, found.message.as_str()),
            (2 * KV_HEADS as u64 * 16, "")
        );
        let mut wrong = end.to_vec();
        wrong[0] += 0.5;
        let found =
            check_end(&problem(&text), SEED, 0, bytemuck::cast_slice(&wrong)).unwrap();
        assert_eq!(found.verdict, CheckVerdict::Fail);
    }

    #[test]
    fn only_the_tokens_page_is_looked_up() {
        let p = problem(&text("layout=paged16,pages=whole"));
        let bytes =
            unneeded(&p, SEED, 0).into_iter().map(|(_, range)| range.end - range.start);
        // Of 44 entries of each of 3 requests, one.
        assert_eq!(bytes.sum::<u64>(), 4 * 3 * 43);
        assert!(unneeded(&problem(&text("layout=paged16")), SEED, 0).is_empty());
    }

    #[test]
    fn quantized_tokens_have_no_reference() {
        let quantized = "rope_append:batch=1,context=1,q_heads=1,kv_heads=1,head_dim=2,\
                         dtype=int8,layout=paged1";
        let error = check(&problem(quantized), SEED, 0, 0, &[0; 6]).unwrap_err();
        assert!(error.to_string().contains("rope_append in int8"), "{error}");
    }
}
