//! `headline.tex`: the numbers of a campaign as a LaTeX table, for `\input` in a paper. It
//! needs the package booktabs and nothing else.

use std::fmt::Write;

use crate::analysis::Campaign;
use crate::quantity::{interval, share, si};
use crate::verdict::{MachineLimit, Verdict};

/// The table: the machine's limits with their intervals beside what the clocks and the data
/// sheet promise, then the claims with their findings.
pub fn headline(campaign: &Campaign, judged: &Verdict) -> String {
    let device = campaign.device.as_deref().unwrap_or("unknown device");
    let mut text = String::from("% Needs \\usepackage{booktabs}.\n");
    if campaign.is_simulated() {
        text.push_str("% SIMULATED: these times were made up or counted, not measured.\n");
    }
    let simulated = if campaign.is_simulated() { "SIMULATED. " } else { "" };
    let caption = format!("{simulated}{device}: measured limits and claims");
    let _ = write!(
        text,
        "\\begin{{table}}\n\\centering\n\\small\n\\caption{{{}}}\n\
         \\begin{{tabular}}{{@{{}}lrrr@{{}}}}\n\\toprule\n\
         limit & measured [95\\% interval] & of clocks & of data sheet \\\\\n\\midrule\n",
        escape(&caption)
    );
    for limit in &judged.limits {
        text.push_str(&limit_row(limit));
    }
    text.push_str("\\bottomrule\n\\end{tabular}\n\n\\medskip\n");
    text.push_str(
        "\\begin{tabular}{@{}p{0.68\\linewidth}l@{}}\n\\toprule\nclaim & finding \\\\\n\\midrule\n",
    );
    for claim in &judged.claims {
        let _ = writeln!(
            text,
            "{} & {} \\\\",
            escape(&claim.statement),
            escape(claim.finding.name())
        );
    }
    text + "\\bottomrule\n\\end{tabular}\n\\end{table}\n"
}

fn limit_row(limit: &MachineLimit) -> String {
    let unit = super::answer::unit(limit.unit);
    let value = limit.value;
    let measured = match limit.unit {
        "share" => share(value.value),
        _ => interval([value.value, value.lo, value.hi], unit),
    };
    let of = |peak: Option<f64>| {
        peak.map_or("--".to_owned(), |peak| {
            format!("{} of {}", share(value.value / peak), si(peak, unit))
        })
    };
    let name = limit.id.replace('_', " ");
    let cells = [name, measured, of(limit.derived), of(limit.spec)];
    let cells: Vec<String> = cells.iter().map(|cell| escape(cell)).collect();
    format!("{} \\\\\n", cells.join(" & "))
}

/// A text with LaTeX's special characters escaped. What pdflatex's default encoding lacks
/// is spelled in ASCII.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => {
                escaped.push('\\');
                escaped.push(c);
            }
            '~' => escaped.push_str("\\textasciitilde{}"),
            '^' => escaped.push_str("\\textasciicircum{}"),
            '\\' => escaped.push_str("\\textbackslash{}"),
            'µ' => escaped.push_str("$\\mu$"),
            '±' => escaped.push_str("$\\pm$"),
            '×' => escaped.push_str("$\\times$"),
            '<' | '>' => {
                let _ = write!(escaped, "${c}$");
            }
            '\n' => escaped.push(' '),
            c if c.is_ascii_graphic() || c == ' ' => escaped.push(c),
            _ => escaped.push('?'),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_characters_are_escaped() {
        assert_eq!(
            escape("50% of a_b & {c} #1 $x"),
            "50\\% of a\\_b \\& \\{c\\} \\#1 \\$x"
        );
        assert_eq!(
            escape("4 µs ~ \\x^2"),
            "4 $\\mu$s \\textasciitilde{} \\textbackslash{}x\\textasciicircum{}2"
        );
        assert_eq!(escape("\u{1f600}\n<"), "? $<$");
    }
}
