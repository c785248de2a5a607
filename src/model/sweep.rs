//! Predictions over a grid: every model, phase, format and way to spread it, at every
//! context, batch and machine. Rows come in a fixed order, in constant memory.

use std::fmt::Write;
use std::io;

use rayon::prelude::*;

use super::llm::Llm;
use super::mix::Mix;
use super::predict::{Growth, Prediction, Rates, StepQuestion, Totals};
use super::routing::ExpertRouting;
use super::step::{Formats, FormatsChoice, Parallel, Phase, Step, StepShape};
use super::task::Served;

/// Tokens of each request in a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Tokens {
    /// Name of the workload that states them; empty without one.
    pub workload: String,
    /// Tokens of a request, new ones included.
    pub context: u64,
    /// New tokens of a prefill.
    pub prefill: u64,
}

/// The axes of a grid.
#[derive(Clone, Debug)]
pub struct Grid<'a> {
    /// Models.
    pub models: Vec<&'a Llm>,
    /// What steps do.
    pub phases: Vec<Phase>,
    /// Formats of weights, cache and activations.
    pub formats: Vec<FormatsChoice>,
    /// Ways to spread a model.
    pub parallel: Vec<Parallel>,
    /// How tokens choose experts.
    pub routing: ExpertRouting,
    /// Tokens of requests.
    pub tokens: Vec<Tokens>,
    /// Requests.
    pub batches: Vec<u64>,
    /// Machines with their rates.
    pub rates: Vec<Rates<'a>>,
}

/// What became of the steps of a grid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Predicted {
    /// Steps that are possible.
    pub steps: usize,
    /// Why the first of those that are not, is not.
    pub refusal: Option<String>,
}

impl Predicted {
    /// Counts a step, or keeps why it is not possible if it is the first.
    pub fn take(&mut self, refusal: Option<&String>) {
        match refusal {
            None => self.steps += 1,
            Some(_) => self.refusal = self.refusal.take().or(refusal.cloned()),
        }
    }
}

/// Columns of a row.
pub const COLUMNS: [&str; 48] = [
    "model",
    "workload",
    "phase",
    "batch",
    "context",
    "new_tokens",
    "weights",
    "cache",
    "activations",
    "tensor",
    "expert",
    "data",
    "routing",
    "machine",
    "flops",
    "bytes",
    "weight_bytes",
    "cache_bytes",
    "expected_bytes",
    "bound_bytes",
    "link_bytes",
    "launches",
    "oi_flops_per_byte",
    "oi_bound_flops_per_byte",
    "oi_weights_and_cache_flops_per_byte",
    "ridge_flops_per_byte",
    "memory_s",
    "compute_s",
    "link_s",
    "launch_s",
    "time_s",
    "time_bound_s",
    "bound",
    "capacity_footprint_bytes",
    "resident_bytes",
    "memory_bytes",
    "fits",
    "short_bytes",
    "quadrant",
    "batch_max",
    "batch_at_ridge",
    "wall_comes_first",
    "tokens_per_s_per_gpu",
    "mfu",
    "mbu",
    "energy_per_token_j",
    "reason",
    "note",
];

/// Batches in a chunk: what does not depend on the batch is computed once for all of them.
const BATCHES: usize = 256;

/// Chunks of the grid that are computed before their rows are written.
const CHUNKS: usize = 64;

/// What the rows of a chunk of the grid have in common.
#[derive(Clone, Copy)]
struct GridChunk<'a> {
    model: &'a Llm,
    phase: Phase,
    formats: Formats,
    parallel: Parallel,
    routing: ExpertRouting,
    tokens: &'a Tokens,
    batches: &'a [u64],
}

impl GridChunk<'_> {
    /// The step of a batch.
    fn shape(&self, batch: u64) -> StepShape {
        let new_tokens = match self.phase {
            Phase::Decode => 1,
            Phase::Prefill => self.tokens.prefill,
        };
        StepShape {
            phase: self.phase,
            batch,
            context: self.tokens.context,
            new_tokens,
            formats: self.formats,
            parallel: self.parallel,
            routing: self.routing,
        }
    }
}

impl<'a> Grid<'a> {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        let steps = self.chunks().map(|chunk| chunk.batches.len()).sum::<usize>();
        steps * self.rates.len()
    }

    fn chunks(&self) -> impl Iterator<Item = GridChunk<'_>> {
        self.models.iter().flat_map(move |model| {
            self.phases.iter().flat_map(move |&phase| {
                self.formats.iter().flat_map(move |&formats| {
                    self.parallel.iter().flat_map(move |&parallel| {
                        self.tokens.iter().flat_map(move |tokens| {
                            self.batches.chunks(BATCHES).map(move |batches| GridChunk {
                                model,
                                phase,
                                formats: formats.of(model),
                                parallel,
                                routing: self.routing,
                                tokens,
                                batches,
                            })
                        })
                    })
                })
            })
        })
    }

    /// Every step; there is one for all machines.
    pub fn shapes(&self) -> impl Iterator<Item = (&Llm, StepShape)> {
        self.chunks().flat_map(|chunk| {
            chunk.batches.iter().map(move |&batch| (chunk.model, chunk.shape(batch)))
        })
    }

    /// Writes a header and all rows as CSV.
    ///
    /// # Errors
    /// The writer's.
    pub fn write_csv(&self, to: &mut (impl io::Write + ?Sized)) -> io::Result<Predicted> {
        writeln!(to, "{}", COLUMNS.join(","))?;
        let (mut chunks, mut all) = (self.chunks(), Predicted::default());
        loop {
            let some: Vec<GridChunk> = chunks.by_ref().take(CHUNKS).collect();
            if some.is_empty() {
                return Ok(all);
            }
            let parts: Vec<(String, Predicted)> =
                some.into_par_iter().map(|chunk| self.rows_of(&chunk)).collect();
            for (text, predicted) in parts {
                to.write_all(text.as_bytes())?;
                all.steps += predicted.steps;
                all.refusal = all.refusal.or(predicted.refusal);
            }
        }
    }

    /// The rows of a chunk as CSV, and what is in them.
    fn rows_of(&self, chunk: &GridChunk) -> (String, Predicted) {
        let mut predicted = Predicted::default();
        let mut text = String::with_capacity(512 * chunk.batches.len() * self.rates.len());
        let decode = StepShape { phase: Phase::Decode, new_tokens: 1, ..chunk.shape(1) };
        let growth = Growth::of(chunk.model, &decode);
        for &batch in chunk.batches {
            let shape = chunk.shape(batch);
            let step = Step::of(chunk.model, &shape);
            let totals = step.as_ref().map(Totals::of_step).unwrap_or_default();
            predicted.take(step.as_ref().err());
            for rates in &self.rates {
                let question = StepQuestion { model: chunk.model, shape: &shape, rates };
                let asked = Asked {
                    workload: &chunk.tokens.workload,
                    phase: shape.phase.name(),
                    batch,
                    context: Some(shape.context),
                    longest_context: shape.context,
                    new_tokens: shape.new_tokens,
                };
                let row = SweepRow { question, asked };
                match &step {
                    Ok(step) => {
                        let of = Prediction::of(&question, step, totals, &growth);
                        row.write(&mut text, &of);
                    }
                    Err(reason) => row.write_refusal(&mut text, reason),
                }
            }
        }
        (text, predicted)
    }
}

/// One step of requests that differ, for models, formats, parallelism and machines.
#[derive(Clone, Debug)]
pub struct MixGrid<'a> {
    /// What rows call it, in the column of workloads.
    pub name: String,
    /// The requests.
    pub mix: &'a Mix,
    /// Models as they are served.
    pub served: Vec<Served<'a>>,
    /// Machines with their rates.
    pub rates: Vec<Rates<'a>>,
}

impl MixGrid<'_> {
    /// The shape of all of the mix's requests, for what does not depend on their context.
    const fn shape(&self, served: &Served, batch: u64) -> StepShape {
        let Served { formats, parallel, routing, .. } = *served;
        let (phase, context, new_tokens) = (Phase::Decode, 1, 1);
        StepShape { phase, batch, context, new_tokens, formats, parallel, routing }
    }

    /// Every step; there is one for all machines.
    pub fn steps(&self) -> impl Iterator<Item = (&Served<'_>, Result<Step, String>)> {
        self.served.iter().map(|served| {
            let like = self.shape(served, self.mix.requests());
            (served, Step::of_mix(served.model, self.mix, &like))
        })
    }

    /// Writes a header and all rows as CSV, with the columns of [`Grid::write_csv`]: the
    /// batch is all requests and new tokens are those of all of them. A mix has no one
    /// context, and no batch at the ridge.
    ///
    /// # Errors
    /// The writer's.
    pub fn write_csv(&self, to: &mut (impl io::Write + ?Sized)) -> io::Result<Predicted> {
        writeln!(to, "{}", COLUMNS.join(","))?;
        let mut predicted = Predicted::default();
        let asked = Asked {
            workload: &self.name,
            phase: "mixed",
            batch: self.mix.requests(),
            context: None,
            longest_context: self.mix.longest_context(),
            new_tokens: self.mix.new_tokens(),
        };
        for (served, step) in self.steps() {
            predicted.take(step.as_ref().err());
            let shape = self.shape(served, asked.batch);
            for rates in &self.rates {
                let question = StepQuestion { model: served.model, shape: &shape, rates };
                let (row, mut text) = (SweepRow { question, asked }, String::new());
                match &step {
                    Ok(step) => {
                        let totals = Totals::of_step(step);
                        let of = Prediction::of(&question, step, totals, &Growth::none());
                        row.write(&mut text, &of);
                    }
                    Err(reason) => row.write_refusal(&mut text, reason),
                }
                to.write_all(text.as_bytes())?;
            }
        }
        Ok(predicted)
    }
}

/// What a row says of its requests.
#[derive(Clone, Copy)]
struct Asked<'a> {
    workload: &'a str,
    phase: &'static str,
    batch: u64,
    /// `None` where requests differ.
    context: Option<u64>,
    longest_context: u64,
    new_tokens: u64,
}

/// A row to write.
struct SweepRow<'a> {
    question: StepQuestion<'a>,
    asked: Asked<'a>,
}

impl SweepRow<'_> {
    fn write_question(&self, to: &mut String) {
        let StepQuestion { model, shape, rates } = self.question;
        let Asked { workload, phase, batch, context, new_tokens, .. } = self.asked;
        let StepShape { formats, parallel, routing, .. } = shape;
        let Formats { weights, cache, activations } = formats;
        let Parallel { tensor, expert, data } = parallel;
        quote(to, &model.name);
        to.push(',');
        quote(to, workload);
        // Writing to a string never fails.
        let _ = write!(to, ",{phase},{batch},");
        let _ = context.map_or(Ok(()), |context| write!(to, "{context}"));
        let _ = write!(
            to,
            ",{new_tokens},{weights},{cache},{},{tensor},{expert},{data},{routing},",
            activations.name()
        );
        quote(to, &rates.machine().name);
    }

    fn write(&self, to: &mut String, of: &Prediction) {
        self.write_question(to);
        let Prediction { totals, times, .. } = of;
        let shape = self.question.shape;
        number(to, Some(totals.flops));
        number(to, Some(totals.bytes));
        number(to, Some(totals.weight_bytes));
        number(to, Some(totals.cache_bytes));
        number(to, Some(totals.expected_bytes));
        number(to, Some(totals.bound_bytes));
        number(to, Some(totals.link_bytes));
        number(to, Some(totals.launches as f64));
        number(to, Some(totals.operational_intensity()));
        number(to, Some(totals.bound_intensity()));
        number(to, Some(totals.intensity_of_weights_and_cache()));
        number(to, of.ridge);
        number(to, times.map(|times| times.memory_s));
        number(to, times.map(|times| times.compute_s));
        number(to, times.map(|times| times.link_s));
        number(to, times.map(|times| times.launch_s));
        number(to, times.map(|times| times.time_s()));
        number(to, of.bound_times.map(|times| times.time_s()));
        word(to, of.bound().map(|bound| bound.name()));
        number(to, Some(of.footprint.per_request_bytes()));
        number(to, Some(of.footprint.resident_bytes()));
        number(to, of.memory_bytes);
        flag(to, of.fits());
        number(to, of.short_bytes());
        to.push(',');
        quote(to, of.quadrant().unwrap_or_default());
        number(to, of.batch_max);
        let grows = self.asked.context.is_some();
        number(to, of.batch_at_ridge.map(|batch| batch as f64));
        flag(to, of.wall_comes_first().filter(|_| grows));
        number(to, of.tokens_per_s_per_gpu(shape));
        number(to, of.compute_share());
        number(to, of.bandwidth_share());
        number(to, of.energy_per_token_j(&self.question));
        to.push(',');
        if of.times.is_none() {
            let machine = self.question.rates.machine();
            let activations = shape.formats.activations;
            let reason = if of.ridge.is_none() {
                format!("{} states no peak in {activations}", machine.name)
            } else {
                format!("{} states no links to other GPUs", machine.name)
            };
            quote(to, &reason);
        }
        to.push(',');
        let note = self.question.model.beyond_limit(self.asked.longest_context);
        quote(to, &note.unwrap_or_default());
        to.push('\n');
    }

    fn write_refusal(&self, to: &mut String, reason: &str) {
        self.write_question(to);
        // The reason, and no note.
        let (written, after) = (14, 1);
        for _ in written..COLUMNS.len() - after {
            to.push(',');
        }
        quote(to, reason);
        to.push_str(",\n");
    }
}

/// Writes a cell, quoted where CSV needs it.
fn quote(to: &mut String, text: &str) {
    if text.contains([',', '"', '\n', '\r']) {
        to.push('"');
        to.push_str(&text.replace('"', "\"\""));
        to.push('"');
    } else {
        to.push_str(text);
    }
}

/// Writes a comma and a number that parses to the same value, or to an empty cell.
fn number(to: &mut String, value: Option<f64>) {
    to.push(',');
    if let Some(value) = value.filter(|value| value.is_finite()) {
        // There is one zero.
        let _ = write!(to, "{}", value + 0.0);
    }
}

fn word(to: &mut String, value: Option<&str>) {
    to.push(',');
    to.push_str(value.unwrap_or_default());
}

fn flag(to: &mut String, value: Option<bool>) {
    word(to, value.map(|value| if value { "true" } else { "false" }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::DType;
    use crate::model::llm;
    use crate::model::machine::Machines;
    use crate::model::predict::PeakBasis;

    fn with_grid(check: impl Fn(&Grid)) {
        let (models, machines) = (llm::load(None).unwrap(), Machines::load(None).unwrap());
        let formats = Formats::plain(DType::Bf16);
        let tokens =
            |context| Tokens { workload: String::new(), context, prefill: context };
        check(&Grid {
            models: models.iter().collect(),
            phases: Phase::ALL.to_vec(),
            formats: vec![formats.into()],
            parallel: vec![Parallel::ONE, Parallel { tensor: 5, ..Parallel::ONE }],
            tokens: [64, 8192].map(tokens).to_vec(),
            routing: ExpertRouting::Uniform,
            batches: (1..=300).step_by(37).collect(),
            rates: machines.iter().map(|m| Rates::new(m, PeakBasis::Sheet)).collect(),
        });
    }

    /// A context that the model was not made for is predicted, with a note.
    #[test]
    fn a_context_beyond_the_models_limit_has_a_note() {
        let (models, machines) = (llm::load(None).unwrap(), Machines::load(None).unwrap());
        let limited = models.iter().filter(|model| model.context_limit == Some(4096));
        let tokens =
            |context| Tokens { workload: String::new(), context, prefill: context };
        let grid = Grid {
            models: limited.take(1).collect(),
            phases: Phase::ALL.to_vec(),
            formats: vec![Formats::plain(DType::Bf16).into()],
            routing: ExpertRouting::default(),
            parallel: vec![Parallel::ONE],
            tokens: [4096, 4097].map(tokens).to_vec(),
            batches: vec![1],
            rates: vec![Rates::new(machines.named("h100-sxm").unwrap(), PeakBasis::Sheet)],
        };
        let text = csv_of(&grid);
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let at = |name: &str| COLUMNS.iter().position(|column| *column == name).unwrap();
        let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        assert_eq!(rows.len(), 4);
        for row in rows {
            let is_beyond = &row[at("context")] == "4097";
            let note = &row[at("note")];
            assert_eq!(
                note.ends_with("was made for contexts up to 4096"),
                is_beyond,
                "{note}"
            );
            assert!(row[at("reason")].is_empty());
        }
    }

    #[test]
    fn it_is_known_whether_anything_was_predicted() {
        with_grid(|grid| {
            let predicted = grid.write_csv(&mut io::sink()).unwrap();
            assert!(
                predicted.steps > 0 && predicted.steps * grid.rates.len() < grid.rows()
            );
            assert!(predicted.refusal.unwrap().contains("does not divide"));
            let none = Parallel { tensor: 5, ..Parallel::ONE };
            let llama = grid.models.iter().filter(|m| m.name.starts_with("llama")).copied();
            let refused =
                Grid { parallel: vec![none], models: llama.collect(), ..grid.clone() };
            assert_eq!(refused.write_csv(&mut io::sink()).unwrap().steps, 0);
        });
    }

    fn csv_of(grid: &Grid) -> String {
        let mut bytes = Vec::new();
        grid.write_csv(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// Every point is a row with all its cells; a step that is not possible has a reason.
    #[test]
    fn every_point_is_a_row() {
        with_grid(|grid| {
            let text = csv_of(grid);
            let mut reader = csv::Reader::from_reader(text.as_bytes());
            let rows: Vec<csv::StringRecord> =
                reader.records().map(Result::unwrap).collect();
            assert_eq!(rows.len(), grid.rows());
            let at =
                |name: &str| COLUMNS.iter().position(|column| *column == name).unwrap();
            for row in &rows {
                assert_eq!(row.len(), COLUMNS.len());
                let (time, reason) = (&row[at("time_s")], &row[at("reason")]);
                assert_eq!(time.is_empty(), !reason.is_empty(), "{row:?}");
                let short = row[at("short_bytes")].is_empty();
                assert_eq!(&row[at("fits")] == "false", !short, "{row:?}");
            }
            let refused = rows.iter().filter(|row| &row[at("tensor")] == "5");
            let reasons: Vec<&str> =
                refused.map(|row| row.get(at("reason")).unwrap()).collect();
            assert!(reasons.iter().any(|reason| reason.contains("does not divide")));
        });
    }

    /// The same grid gives the same bytes, however it is divided among cores.
    #[test]
    fn sweeps_are_pure() {
        with_grid(|grid| {
            let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
            assert_eq!(csv_of(grid), one.install(|| csv_of(grid)));
        });
    }
}
