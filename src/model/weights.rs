//! Formats of weights by part of a model, as checkpoints are shipped: experts in 4 bits
//! and attention in 16, say.

use std::fmt;
use std::str::FromStr;

use crate::format::{DType, text_of_name};
use crate::quant::{Quant, QuantPlace};

/// A part of a model whose weights have a format of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightPart {
    /// Projections of attention and of states.
    Attention,
    /// Dense feed-forward parts.
    Dense,
    /// Shared experts.
    Shared,
    /// Routers.
    Router,
    /// Routed experts.
    Experts,
    /// The head, and the embedding.
    Head,
}

text_of_name!(WeightPart => "a part of a model");

impl WeightPart {
    /// Every part, in the order in which they are spelled.
    pub const ALL: [WeightPart; 6] = [
        WeightPart::Attention,
        WeightPart::Dense,
        WeightPart::Shared,
        WeightPart::Router,
        WeightPart::Experts,
        WeightPart::Head,
    ];

    /// The spelling used on the command line and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            WeightPart::Attention => "attention",
            WeightPart::Dense => "dense",
            WeightPart::Shared => "shared",
            WeightPart::Router => "router",
            WeightPart::Experts => "experts",
            WeightPart::Head => "head",
        }
    }
}

/// The scheme of each part's weights.
///
/// Its spelling is the scheme of most parts, and those of others: `bf16+experts:mxfp4`.
/// Nobody quantizes embeddings and heads below 16 bits, so a scheme alone means bf16 there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Weights([Quant; WeightPart::ALL.len()]);

impl Weights {
    /// One scheme for all parts.
    pub const fn all(quant: Quant) -> Weights {
        let mut parts = [quant; WeightPart::ALL.len()];
        if quant.dtype().bits() < 16 {
            parts[WeightPart::Head as usize] = Quant::plain(DType::Bf16);
        }
        Weights(parts)
    }

    /// The scheme of a part.
    pub const fn of(self, part: WeightPart) -> Quant {
        self.0[part as usize]
    }

    /// The same with another scheme of a part.
    pub const fn with(mut self, part: WeightPart, quant: Quant) -> Weights {
        self.0[part as usize] = quant;
        self
    }

    /// Parts that differ from what a scheme alone means.
    fn beside(self, quant: Quant) -> impl Iterator<Item = WeightPart> {
        let alone = Weights::all(quant);
        WeightPart::ALL.into_iter().filter(move |part| self.of(*part) != alone.of(*part))
    }
}

/// Schemes of weights that a question asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a command line has a few of them")]
pub enum WeightsChoice {
    /// These, of every model.
    All(Weights),
    /// Those in which each model is published; bf16 where that is not known.
    Shipped,
}

impl FromStr for WeightsChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<WeightsChoice, String> {
        match text {
            "shipped" => Ok(WeightsChoice::Shipped),
            text => text.parse().map(WeightsChoice::All),
        }
    }
}

impl From<Quant> for Weights {
    fn from(quant: Quant) -> Weights {
        Weights::all(quant)
    }
}

impl fmt::Display for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut most = self.0[0];
        if *self == Weights::all(most) {
            return fmt::Display::fmt(&most, f);
        }
        for quant in self.0 {
            if self.beside(quant).count() < self.beside(most).count() {
                most = quant;
            }
        }
        let mut text = most.to_string();
        for part in self.beside(most) {
            text += &format!("+{}:{}", part.name(), self.of(part));
        }
        f.pad(&text)
    }
}

impl FromStr for Weights {
    type Err = String;

    fn from_str(text: &str) -> Result<Weights, String> {
        let mut terms = text.split('+');
        let all = terms.next().unwrap_or_default();
        let mut weights = Weights::all(Quant::parse(all, QuantPlace::Weights)?);
        for term in terms {
            let (part, scheme) = term.split_once(':').ok_or_else(|| {
                format!(
                    "`{term}` in `{text}` is not a part and its scheme; write \
                     `bf16+experts:mxfp4`"
                )
            })?;
            let quant = Quant::parse(scheme, QuantPlace::Weights)?;
            weights = weights.with(part.parse()?, quant);
        }
        Ok(weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(text: &str) -> Weights {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn one_scheme_leaves_the_head_in_bf16() {
        let mxfp4 = weights("mxfp4");
        assert_eq!(mxfp4.of(WeightPart::Experts), Quant::MXFP4);
        assert_eq!(mxfp4.of(WeightPart::Head), Quant::plain(DType::Bf16));
        let f32 = weights("f32");
        assert_eq!(f32.of(WeightPart::Head), Quant::plain(DType::F32));
    }

    #[test]
    fn spellings_come_back_as_they_were() {
        for text in [
            "bf16",
            "mxfp4",
            "fp8_e4m3_block128x128",
            "bf16+experts:mxfp4",
            "nvfp4+attention:fp8_e4m3+router:bf16",
            "int4_g32_zp+head:int4",
        ] {
            assert_eq!(weights(text).to_string(), text);
        }
        // What most parts have comes first, and what is meant anyway is not said.
        let long = "mxfp4+attention:bf16+dense:bf16+shared:bf16+router:bf16+head:bf16";
        assert_eq!(weights(long).to_string(), "bf16+experts:mxfp4");
    }

    #[test]
    fn other_texts_are_told_what_to_write() {
        for (text, part) in [
            ("bf17", "`bf17` is not a format of weights"),
            ("bf16+experts", "is not a part and its scheme"),
            ("bf16+expert:mxfp4", "`expert` is not a part of a model"),
            ("bf16+experts:", "is not a format of weights"),
            ("", "is not a format of weights"),
        ] {
            let error = text.parse::<Weights>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
