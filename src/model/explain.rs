//! Formulas of problems with their numbers put in: what a prediction adds up, to be
//! checked by hand.

use crate::format::DType;
use crate::op::Problem;

/// How FLOPs and bytes of a problem come about. The results are those of
/// [`Problem::work`]; the tests hold these sentences against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// FLOPs, such as `2 m n k = 2 * 1 * 4096 * 4096`.
    pub flops: String,
    /// Bytes.
    pub bytes: String,
}

fn of(formula: &str, numbers: String) -> String {
    format!("{formula} = {numbers}")
}

/// Bytes of an element as a factor: half a byte for int4.
fn size(dtype: DType) -> String {
    match dtype.bits() {
        4 => "0.5".to_owned(),
        bits => (bits / 8).to_string(),
    }
}

/// Bytes of a matrix of weights, with its scales where it has any.
fn weights(dtype: DType, n: u64, k: u64) -> (&'static str, String) {
    let numbers = format!("{} * {n} * {k}", size(dtype));
    match dtype {
        DType::Int4 => {
            ("b_w n k + 2 n k / 128", format!("{numbers} + 2 * {n} * {k} / 128"))
        }
        _ if dtype.is_scaled() => ("b_w n k + 4 n", format!("{numbers} + 4 * {n}")),
        _ => ("b_w n k", numbers),
    }
}

/// Explains a problem of a step; others only by their results.
pub fn explain(problem: &Problem) -> Explanation {
    let work = problem.work();
    match *problem {
        Problem::Gemm(p) => {
            let (formula, numbers) = weights(p.w_dtype, p.n, p.k);
            let (m, n, k, b) = (p.m, p.n, p.k, size(p.dtype));
            Explanation {
                flops: of("2 m n k", format!("2 * {m} * {n} * {k}")),
                bytes: of(
                    &format!("b (m k + m n) + {formula}"),
                    format!("{b} * ({m} * {k} + {m} * {n}) + {numbers}"),
                ),
            }
        }
        Problem::MoeGemm(p) => {
            let (formula, numbers) = weights(p.w_dtype, p.n, p.k);
            let (rows, x, n, k) = (p.rows(), p.input_rows(), p.n, p.k);
            Explanation {
                flops: of("2 T top_k n k", format!("2 * {rows} * {n} * {k}")),
                bytes: of(
                    &format!("b (rows of X k + T top_k n) + experts touched ({formula})"),
                    format!(
                        "{} * ({x} * {k} + {rows} * {n}) + {} * ({numbers})",
                        size(p.dtype),
                        p.experts_touched()
                    ),
                ),
            }
        }
        Problem::DecodeAttention(p) => {
            let seen = p.attended(p.context, 0);
            let (batch, seen, d) = (p.batch, seen.end - seen.start, p.head_dim);
            let q = format!("2 * {batch} * {} * {d} * {}", p.q_heads, size(p.dtype));
            let kv = format!(
                "2 * {batch} * {} * {d} * {seen} * {}",
                p.kv_heads,
                size(p.kv_dtype)
            );
            let (scales, of_scales) = if p.kv_dtype.is_scaled() {
                (" + 8 B n_kv", format!(" + 8 * {batch} * {}", p.kv_heads))
            } else {
                ("", String::new())
            };
            Explanation {
                flops: of(
                    "4 B n_q d s",
                    format!("4 * {batch} * {} * {d} * {seen}", p.q_heads),
                ),
                bytes: of(
                    &format!("2 B n_q d b + 2 B n_kv d s b_kv{scales}"),
                    format!("{q} + {kv}{of_scales}"),
                ),
            }
        }
        Problem::MlaDecode(p) => {
            let (batch, s, h) = (p.batch, p.context, p.q_heads);
            let (key, value) = (p.key_dim(), p.latent_dim);
            Explanation {
                flops: of(
                    "2 B h s (2 d_c + d_r)",
                    format!("2 * {batch} * {h} * {s} * {}", key + value),
                ),
                bytes: of(
                    "B s record + B h (2 d_c + d_r) b",
                    format!(
                        "{batch} * {s} * {} + {batch} * {h} * {} * {}",
                        p.record_bytes(),
                        key + value,
                        size(p.dtype)
                    ),
                ),
            }
        }
        Problem::PrefillAttention(p) if p.window == 0 => {
            let (batch, heads, d) = (p.batch, p.q_heads, p.head_dim);
            let (s, prefix) = (p.new_tokens, p.prefix);
            Explanation {
                flops: of(
                    "2 B n_q d S (2 P + S + 1)",
                    format!("2 * {batch} * {heads} * {d} * {s} * (2 * {prefix} + {s} + 1)"),
                ),
                bytes: of(
                    "2 B n_q S d b + 2 B n_kv (S + P) d b_kv",
                    format!(
                        "2 * {batch} * {heads} * {s} * {d} * {} + 2 * {batch} * {} * ({s} + \
                         {prefix}) * {d} * {}",
                        size(p.dtype),
                        p.kv_heads,
                        size(p.kv_dtype)
                    ),
                ),
            }
        }
        _ => Explanation {
            flops: work.flops().to_string(),
            bytes: format!("{} read + {} written", work.bytes_read, work.bytes_written),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sum of products of numbers in brackets, as the sentences have them.
    fn value(text: &str) -> f64 {
        if let Some(open) = text.rfind('(') {
            let close = open + text[open..].find(')').unwrap();
            let inner = value(&text[open + 1..close]);
            return value(&format!("{}{inner}{}", &text[..open], &text[close + 1..]));
        }
        let term = |term: &str| {
            let mut parts = term.split(" / ");
            let product: f64 = parts
                .next()
                .unwrap()
                .split(" * ")
                .map(|x| x.trim().parse::<f64>().unwrap())
                .product();
            parts.fold(product, |x, by| x / by.trim().parse::<f64>().unwrap())
        };
        text.split(" + ").map(term).sum()
    }

    /// What is said is what is counted.
    #[test]
    fn sentences_have_the_results_of_work() {
        for text in [
            "gemm:m=8,n=4096,k=1024,dtype=bf16",
            "gemm:m=8,n=4096,k=1024,dtype=bf16,w_dtype=int4",
            "gemm:m=8,n=4096,k=1024,dtype=f16,w_dtype=fp8_e4m3",
            "moe_gemm:tokens=3,experts=8,top_k=2,n=64,k=128,dtype=bf16,w_dtype=int4,\
             routing=balanced",
            "moe_gemm:tokens=3,experts=8,top_k=2,n=64,k=128,dtype=bf16,routing=balanced,\
             inputs=per_expert",
            "decode_attention:batch=3,context=99,q_heads=8,kv_heads=2,head_dim=64,dtype=bf16",
            "decode_attention:batch=3,context=99,q_heads=8,kv_heads=2,head_dim=64,dtype=bf16,\
             kv_dtype=fp8_e4m3,window=20",
            "mla_decode:batch=3,context=99,q_heads=16,dtype=bf16",
            "mla_decode:batch=3,context=99,q_heads=16,dtype=bf16,kv_dtype=fp8_e4m3",
            "prefill_attention:batch=2,prefix=10,new_tokens=7,q_heads=8,kv_heads=2,head_dim=64,\
             dtype=bf16",
        ] {
            let problem: Problem = text.parse().unwrap();
            let explained = explain(&problem);
            let result = |sentence: &str| value(sentence.split_once(" = ").unwrap().1);
            let work = problem.work();
            assert_eq!(
                result(&explained.flops),
                work.flops() as f64,
                "{text}: {explained:?}"
            );
            assert_eq!(
                result(&explained.bytes),
                work.bytes() as f64,
                "{text}: {explained:?}"
            );
        }
    }
}
