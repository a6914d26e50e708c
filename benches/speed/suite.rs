//! Runs a command's parts one after the other, prints their tables and writes the page of results.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::value_parser;

use crate::Result;
use crate::process;
use crate::report::{Series, Table, Unit};
use crate::server::Stage;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Binary to be measured, from a plain release build: cargo builds benches with test features
    #[arg(long)]
    stepgate: PathBuf,
    /// How often everything is measured
    #[arg(long, value_parser = value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 2, value_parser = value_parser!(u32).range(1..))]
    seconds: u32,
    /// Only the parts whose names begin with this
    #[arg(long)]
    only: Option<String>,
    /// File for the page of results; written only after all parts and enough rounds
    #[arg(long)]
    write: Option<PathBuf>,
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
    /// Every round begins with another row, so that no row always follows the same one. A figure that
    /// is `NaN` is left out.
    pub(crate) fn measure<R, const N: usize>(
        self,
        rows: &[R],
        mut measure: impl FnMut(&R, u32) -> Result<[f64; N]>,
    ) -> Result<Vec<[Series; N]>> {
        let mut all = vec![std::array::from_fn(|_| Series::default()); rows.len()];
        for (round, first) in (1..=self.rounds).zip(0..) {
            for place in 0..rows.len() {
                let row = (first + place) % rows.len();
                let figures: [f64; N] = measure(&rows[row], round)?;
                let pairs = all[row].iter_mut().zip(figures);
                for (series, figure) in pairs.filter(|(_, figure)| !figure.is_nan()) {
                    series.push(figure);
                }
            }
            writeln!(io::stderr(), "    round {round} of {}", self.rounds)?;
        }
        Ok(all)
    }
}

/// Holds one part of the results.
pub(crate) struct Section {
    pub(crate) title: &'static str,
    /// Says how it was measured, in a sentence or two.
    pub(crate) method: String,
    pub(crate) table: Table,
    pub(crate) targets: Vec<Target>,
}

impl Section {
    fn markdown(&self) -> String {
        format!(
            "## {}\n\n{}\n\n{}",
            self.title,
            self.method,
            self.table.markdown()
        )
    }
}

/// Holds a figure and what it should be at most.
pub(crate) struct Target {
    pub(crate) work: &'static str,
    pub(crate) against: &'static str,
    pub(crate) unit: Unit,
    pub(crate) figure: f64,
    pub(crate) spread: String,
    /// Is `None` if the figure is only reported.
    pub(crate) at_most: Option<f64>,
}

/// Returns the table of all targets and whether they are met.
pub(crate) fn targets(sections: &[Section]) -> Table {
    let mut table = Table::new(["work", "against", "figure", "rounds", "at most", "met"]);
    for target in sections.iter().flat_map(|section| &section.targets) {
        let (at_most, is_met) = match target.at_most {
            None => ("reported".to_owned(), ""),
            Some(most) if target.figure <= most => (target.unit.show_with_name(most), "yes"),
            Some(most) => (target.unit.show_with_name(most), "**no**"),
        };
        table.row([
            target.work.to_owned(),
            target.against.to_owned(),
            target.unit.show_with_name(target.figure),
            target.spread.clone(),
            at_most,
            is_met.to_owned(),
        ]);
    }
    table
}

pub(crate) type Part = Box<dyn Fn(&Stage, Effort) -> Result<Section>>;

/// Describes a command: its parts and the page that they make.
pub(crate) struct Suite {
    pub(crate) parts: Vec<(&'static str, Part)>,
    /// Is the default and the least for a page: fewer rounds mean nothing on a machine that other
    /// programs use, too.
    pub(crate) rounds: u32,
    /// Returns the beginning of the page, before the sections.
    pub(crate) opening: fn(Effort, &[Section]) -> String,
}

impl Suite {
    pub(crate) fn run(&self, options: &Options) -> Result<()> {
        // Ten thousand connections need as many descriptors, here and in the servers.
        rlimit::increase_nofile_limit(u64::MAX)?;
        process::move_to_load_core()?;
        let chosen = self.chosen(options)?;
        let effort = Effort {
            rounds: options.rounds.unwrap_or(self.rounds),
            seconds: options.seconds,
        };
        let stage = Stage::new(&options.stepgate)?;
        let mut sections = Vec::new();
        for (name, part) in &chosen {
            writeln!(io::stderr(), "==> {name}")?;
            let section = part(&stage, effort)?;
            writeln!(io::stdout(), "{}", section.markdown())?;
            sections.push(section);
        }
        let opening = (self.opening)(effort, &sections);
        writeln!(io::stdout(), "{opening}")?;
        let Some(file) = &options.write else {
            return Ok(());
        };
        let message = if chosen.len() < self.parts.len() || effort.rounds < self.rounds {
            format!(
                "not written: a page needs all parts and {} rounds",
                self.rounds
            )
        } else {
            let sections = sections.iter().map(Section::markdown);
            let page: Vec<_> = std::iter::once(opening).chain(sections).collect();
            std::fs::write(file, page.join("\n"))?;
            "written".to_owned()
        };
        Ok(writeln!(io::stderr(), "==> {}: {message}", file.display())?)
    }

    fn chosen(&self, options: &Options) -> Result<Vec<&(&'static str, Part)>> {
        let prefix = options.only.as_deref().unwrap_or_default();
        let parts = self.parts.iter();
        let chosen: Vec<_> = parts
            .clone()
            .filter(|(name, _)| name.starts_with(prefix))
            .collect();
        if chosen.is_empty() {
            let names: Vec<_> = parts.map(|(name, _)| *name).collect();
            let names = names.join(", ");
            return Err(format!("there is no part {prefix}; the parts are {names}").into());
        }
        Ok(chosen)
    }
}
