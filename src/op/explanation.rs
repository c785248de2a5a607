//! Formulas of FLOPs and bytes with values put in, to check a prediction by hand.

use crate::format::DType;
use crate::quant::{Quant, ScaleFormat, ScaleGroup};
use crate::resource::Work;

/// How the FLOPs and bytes of a problem come about. The results are those of
/// [`Operation::work`](super::Operation::work); tests evaluate these formulas and compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// FLOPs, such as `2 m n k = 2 * 1 * 4096 * 4096`.
    pub flops: String,
    /// Bytes read and written.
    pub bytes: String,
}

impl Explanation {
    /// The results without a formula, for a problem that has none or only a long one.
    pub fn results(work: &Work) -> Self {
        Explanation {
            flops: work.flops().to_string(),
            bytes: format!("{} read + {} written", work.bytes_read(), work.bytes_written()),
        }
    }
}

/// A formula, and the same with values put in.
pub(super) fn formula(formula: &str, values: String) -> String {
    format!("{formula} = {values}")
}

/// Bytes of an element as a factor: half a byte for int4.
pub(super) fn size(dtype: DType) -> String {
    match dtype.bits() {
        4 => "0.5".to_owned(),
        bits => (bits / 8).to_string(),
    }
}

/// Names that a formula has for a matrix: bytes of an element, rows and columns.
pub(super) type Letters = [&'static str; 3];

/// Bytes of a matrix, with its scales and zero points where it has any.
pub(super) fn matrix(
    scheme: Quant,
    [b, r, c]: Letters,
    rows: u64,
    columns: u64,
) -> (String, String) {
    let mut formula = format!("{b} {r} {c}");
    let mut values = format!("{} * {rows} * {columns}", size(scheme.dtype()));
    let Some(scales) = scheme.scales() else { return (formula, values) };
    let bytes = match scales.format {
        ScaleFormat::F32 => 4,
        ScaleFormat::F16 => 2,
        ScaleFormat::E8m0 | ScaleFormat::E4m3AndF32 => 1,
    };
    match scales.group {
        ScaleGroup::Tensor => {
            formula += &format!(" + {bytes}");
            values += &format!(" + {bytes}");
        }
        ScaleGroup::Channel | ScaleGroup::Token | ScaleGroup::Head => {
            formula += &format!(" + {bytes} {r}");
            values += &format!(" + {bytes} * {rows}");
        }
        ScaleGroup::Block { rows: of_rows, columns: of_columns } => {
            let (down, across) = scheme.scale_grid(rows, columns);
            formula +=
                &format!(" + {bytes} ceil({r} / {of_rows}) ceil({c} / {of_columns})");
            values += &format!(" + {bytes} * {down} * {across}");
        }
        ScaleGroup::Columns(group) if !columns.is_multiple_of(group) => {
            let across = scheme.scale_grid(rows, columns).1;
            formula += &format!(" + {bytes} {r} ceil({c} / {group})");
            values += &format!(" + {bytes} * {rows} * {across}");
            if scheme.has_zero_points() {
                formula += &format!(" + 0.5 {r} ceil({c} / {group})");
                values += &format!(" + 0.5 * {rows} * {across}");
            }
        }
        ScaleGroup::Columns(group) => {
            formula += &format!(" + {bytes} {r} {c} / {group}");
            values += &format!(" + {bytes} * {rows} * {columns} / {group}");
            if scheme.has_zero_points() {
                formula += &format!(" + 0.5 {r} {c} / {group}");
                values += &format!(" + 0.5 * {rows} * {columns} / {group}");
            }
        }
    }
    if scheme.has_tensor_scale() {
        formula += " + 4";
        values += " + 4";
    }
    (formula, values)
}

/// Bytes of the weights of a linear layer.
pub(super) fn weights(scheme: Quant, n: u64, k: u64) -> (String, String) {
    matrix(scheme, ["b_w", "n", "k"], n, k)
}

#[cfg(test)]
mod tests {
    use crate::op::{Op, Problem};
    use crate::quant::QuantPlace;

    /// The value of a sum of products with brackets, as formulas have them.
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

    /// Evaluates the explanation of a problem and compares it with its work.
    fn check(text: &str) {
        let problem: Problem = text.parse().unwrap();
        let (work, explained) = (problem.work(), problem.explanation());
        let result = |formula: &str| value(formula.rsplit(" = ").next().unwrap());
        assert_eq!(result(&explained.flops), work.flops() as f64, "{text}: {explained:?}");
        let bytes = explained.bytes.replace(" read", "").replace(" written", "");
        assert_eq!(result(&bytes), work.bytes() as f64, "{text}: {explained:?}");
    }

    /// Shorter groups too, which no text asks for.
    #[test]
    fn groups_that_do_not_divide_are_counted_up() {
        let scheme =
            crate::quant::Quant::parse("int4_g128_zp", QuantPlace::Weights).unwrap();
        let (formula, values) = super::weights(scheme, 16, 2880);
        assert!(formula.contains("ceil(k / 128)"), "{formula}");
        assert_eq!(value(&values), scheme.matrix_bytes(16, 2880) as f64);
    }

    /// Formulas give what is counted.
    #[test]
    fn formulas_have_the_results_of_work() {
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
            check(text);
        }
    }

    /// What a formula does not cover has its results.
    #[test]
    fn every_operation_is_explained() {
        for op in Op::ALL {
            op.facts().examples.iter().for_each(|example| check(example));
        }
        for text in [
            "decode_attention:batch=3,context=99,q_heads=8,kv_heads=2,head_dim=64,dtype=bf16,\
             new_tokens=2",
            "decode_attention:batch=3,context=99,q_heads=8,kv_heads=2,head_dim=64,dtype=bf16,\
             layout=paged16",
            "mla_decode:batch=3,context=99,q_heads=16,dtype=bf16,layout=paged64,new_tokens=2",
            "prefill_attention:batch=2,prefix=10,new_tokens=7,q_heads=8,kv_heads=2,head_dim=64,\
             dtype=bf16,window=5",
            "prefill_attention:batch=2,prefix=10,new_tokens=7,q_heads=8,kv_heads=2,head_dim=64,\
             causal=false,dtype=bf16",
        ] {
            check(text);
        }
    }
}
