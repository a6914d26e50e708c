//! Figures as they are shown: medians, spreads, tables in Markdown that can be read as they are.

use std::fmt::Write;

/// One figure, measured once in every round.
#[derive(Default, Clone)]
pub(crate) struct Series(Vec<f64>);

impl Series {
    pub(crate) fn push(&mut self, figure: f64) {
        self.0.push(figure);
    }

    /// Of an even number the mean of the middle two.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (sorted.len().saturating_sub(1) / 2, sorted.len() / 2);
        match (sorted.get(low), sorted.get(high)) {
            (Some(low), Some(high)) => f64::midpoint(*low, *high),
            _ => f64::NAN,
        }
    }

    fn least(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    fn most(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    /// This one's figure over the other's, round by round.
    pub(crate) fn over(&self, other: &Self) -> Self {
        let pairs = self.0.iter().zip(&other.0);
        Self(pairs.map(|(ours, theirs)| ours / theirs).collect())
    }

    /// From the least to the most.
    pub(crate) fn spread(&self, unit: Unit) -> String {
        format!("{} to {}", unit.show(self.least()), unit.show(self.most()))
    }
}

impl FromIterator<f64> for Series {
    fn from_iter<I: IntoIterator<Item = f64>>(figures: I) -> Self {
        Self(figures.into_iter().collect())
    }
}

/// How a figure is written.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    Micros,
    Millis,
    Ratio,
    /// A small share: four decimals.
    Share,
    Count,
    Mebibytes,
    Bytes,
}

impl Unit {
    pub(crate) fn show(self, figure: f64) -> String {
        match self {
            Self::Micros if figure < 100.0 => format!("{figure:.1}"),
            Self::Micros | Self::Count | Self::Bytes => thousands(figure),
            Self::Millis | Self::Mebibytes => format!("{figure:.1}"),
            Self::Ratio => format!("{figure:.2}"),
            Self::Share => format!("{figure:.4}"),
        }
    }

    /// With its name, for a table of different ones.
    pub(crate) fn tell(self, figure: f64) -> String {
        let name = match self {
            Self::Micros => " µs",
            Self::Millis => " ms",
            Self::Mebibytes => " MiB",
            Self::Bytes => " B",
            Self::Ratio | Self::Share | Self::Count => "",
        };
        self.show(figure) + name
    }
}

pub(crate) fn mebibytes(bytes: u64) -> f64 {
    as_figure(bytes) / 1024.0 / 1024.0
}

/// Exact below 2^53.
#[expect(clippy::cast_precision_loss, reason = "nothing here counts that far")]
pub(crate) fn as_figure(count: u64) -> f64 {
    count as f64
}

fn thousands(figure: f64) -> String {
    let digits = format!("{:.0}", figure.abs());
    let mut text = String::from(if figure <= -0.5 { "-" } else { "" });
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A table; all but its first column hold figures.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<const N: usize>(head: [&str; N]) -> Self {
        Self {
            rows: vec![head.map(str::to_owned).to_vec()],
        }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.to_vec());
    }

    pub(crate) fn markdown(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let wide = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(wide).collect();
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            text.push('|');
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                // Writing to a string does not fail.
                let _ = if column == 0 {
                    write!(text, " {cell:<width$} |")
                } else {
                    write!(text, " {cell:>width$} |")
                };
            }
            text.push('\n');
            if number == 0 {
                text.push('|');
                for (column, width) in widths.iter().enumerate() {
                    let end = if column == 0 { "-" } else { ":" };
                    let _ = write!(text, "{}{end}|", "-".repeat(width + 1));
                }
                text.push('\n');
            }
        }
        text
    }
}

/// A part of the results.
pub(crate) struct Section {
    pub(crate) title: String,
    /// How it was measured, in a sentence or two.
    pub(crate) how: String,
    pub(crate) table: Table,
    pub(crate) reaches: Vec<Reach>,
}

/// A figure against what it is to be at most.
pub(crate) struct Reach {
    pub(crate) work: String,
    pub(crate) against: String,
    pub(crate) unit: Unit,
    pub(crate) figure: f64,
    pub(crate) spread: String,
    /// None: only reported.
    pub(crate) at_most: Option<f64>,
}

impl Section {
    pub(crate) fn markdown(&self) -> String {
        let Self { title, how, .. } = self;
        format!("## {title}\n\n{how}\n\n{}", self.table.markdown())
    }
}

/// All figures that have something to reach, and whether they do.
pub(crate) fn reaches<'r>(all: impl Iterator<Item = &'r Reach>) -> Table {
    let mut table = Table::new(["work", "against", "figure", "rounds", "at most", "held"]);
    for reach in all {
        let (at_most, held) = match reach.at_most {
            None => ("reported".to_owned(), ""),
            Some(most) if reach.figure <= most => (reach.unit.tell(most), "yes"),
            Some(most) => (reach.unit.tell(most), "**no**"),
        };
        table.row([
            reach.work.clone(),
            reach.against.clone(),
            reach.unit.tell(reach.figure),
            reach.spread.clone(),
            at_most,
            held.to_owned(),
        ]);
    }
    table
}
