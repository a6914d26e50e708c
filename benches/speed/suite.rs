//! Runs a command's parts one after the other and prints their sections of the page of results.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::value_parser;

use crate::Result;
use crate::process;
use crate::report::{Figure, Table, show};
use crate::server::Stage;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Binary to be measured, from a plain release build: cargo builds benches with test features
    #[arg(long)]
    stepgate: PathBuf,
    /// How often everything is measured
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 2, value_parser = value_parser!(u32).range(1..))]
    seconds: u32,
    /// Only the parts whose names begin with this
    #[arg(long, default_value = "")]
    only: String,
}

/// Holds how often and for how long everything is measured.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) rounds: u32,
    pub(crate) seconds: u32,
}

impl Effort {
    /// Measures all rows in turn, round after round, and returns each row's figures.
    ///
    /// Every round begins with another row, so that no row always follows the same one.
    pub(crate) fn measure<R>(
        self,
        rows: &[R],
        mut measure: impl FnMut(&R, u32) -> Result<Vec<Figure>>,
    ) -> Result<Vec<Vec<Figure>>> {
        let mut all: Vec<Vec<Figure>> = vec![Vec::new(); rows.len()];
        for (round, first) in (1..=self.rounds).zip(0..) {
            for place in 0..rows.len() {
                let row = (first + place) % rows.len();
                let figures = measure(&rows[row], round)?;
                for (figure, new) in all[row].iter_mut().zip(&figures) {
                    figure.rounds.extend(&new.rounds);
                }
                if all[row].is_empty() {
                    all[row] = figures;
                }
            }
            writeln!(io::stderr(), "    round {round} of {}", self.rounds)?;
        }
        Ok(all)
    }
}

/// Is the table of a part, and its rows in the table of targets.
pub(crate) type Measured = Result<(Table, Vec<Target>)>;

type Measure = dyn Fn(&Stage, Effort) -> Measured;

/// Describes one part of a command and its section of the page.
pub(crate) struct Part {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// Says how it is measured, in a sentence or two.
    pub(crate) method: &'static str,
    pub(crate) run: Box<Measure>,
}

/// Is a row of the table of targets.
pub(crate) type Target = [String; 6];

/// Compares a figure with what it should be at most; `None`: it is only reported.
pub(crate) fn target(names: [&str; 2], figure: &Figure, at_most: Option<f64>) -> Target {
    compare(names, figure.median(), figure.spread(), at_most)
}

/// Compares the ratio of two medians with what it should be at most. The spread is that of the ratios
/// round by round.
pub(crate) fn ratio(
    names: [&str; 2],
    [ours, theirs]: [&Figure; 2],
    at_most: Option<f64>,
) -> Target {
    let pairs = ours.rounds.iter().zip(&theirs.rounds);
    let mut ratios = ours.clone();
    ratios.rounds = pairs.map(|(ours, theirs)| ours / theirs).collect();
    compare(
        names,
        ours.median() / theirs.median(),
        ratios.spread(),
        at_most,
    )
}

fn compare(names: [&str; 2], figure: f64, spread: String, at_most: Option<f64>) -> Target {
    let [work, against] = names.map(str::to_owned);
    let most = at_most.map_or("reported".to_owned(), show);
    let is_met = at_most.map_or("", |most| if figure <= most { "yes" } else { "**no**" });
    [work, against, show(figure), spread, most, is_met.to_owned()]
}

/// Measures the chosen parts and prints a section for each, and their targets.
pub(crate) fn run(options: &Options, parts: &[Part]) -> Result<()> {
    // Ten thousand connections need as many descriptors, here and in the servers.
    rlimit::increase_nofile_limit(u64::MAX)?;
    process::move_to_load_core()?;
    let (rounds, seconds) = (options.rounds, options.seconds);
    let stage = Stage::new(&options.stepgate)?;
    let mut targets = Table::new(["work", "against", "figure", "rounds", "at most", "met"]);
    let names: Vec<_> = parts.iter().map(|part| part.name).collect();
    if !names.iter().any(|name| name.starts_with(&options.only)) {
        return Err(format!("the parts are {}", names.join(", ")).into());
    }
    for part in parts {
        let Part {
            name,
            title,
            method,
            run,
        } = part;
        if !name.starts_with(&options.only) {
            continue;
        }
        writeln!(io::stderr(), "==> {name}")?;
        let (table, reached) = run(&stage, Effort { rounds, seconds })?;
        writeln!(
            io::stdout(),
            "\n## {title}\n\n{method}\n\n{}",
            table.markdown()
        )?;
        reached.into_iter().for_each(|target| targets.row(target));
    }
    if !targets.is_empty() {
        writeln!(io::stdout(), "\n## Targets\n\n{}", targets.markdown())?;
    }
    Ok(())
}
