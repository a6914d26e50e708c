//! Shows figures as medians, spreads and Markdown tables that can be read as they are.

use std::fmt::Write;

/// Holds one figure of every round.
#[derive(Default, Clone)]
pub(crate) struct Series(Vec<f64>);

impl Series {
    pub(crate) fn push(&mut self, figure: f64) {
        self.0.push(figure);
    }

    /// Returns the median, of an even number the mean of the middle two; `NaN` if there is no figure.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (sorted.len().saturating_sub(1) / 2, sorted.len() / 2);
        match (sorted.get(low), sorted.get(high)) {
            (Some(low), Some(high)) => f64::midpoint(*low, *high),
            _ => f64::NAN,
        }
    }

    /// Returns the ratios to `other`, round by round.
    pub(crate) fn over(&self, other: &Self) -> Self {
        let pairs = self.0.iter().zip(&other.0);
        Self(pairs.map(|(ours, theirs)| ours / theirs).collect())
    }

    /// Returns the least and the greatest figure, as in "4.9 to 5.5".
    pub(crate) fn spread(&self, unit: Unit) -> String {
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        format!("{} to {}", unit.show(least), unit.show(greatest))
    }
}

/// Names what a figure counts, and so how it is written.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    Micros,
    Millis,
    Ratio,
    /// A small share, with four decimals.
    Share,
    Count,
    Mebibytes,
    Bytes,
}

impl Unit {
    /// Returns the figure without its unit; "–" for `NaN`.
    pub(crate) fn show(self, figure: f64) -> String {
        match self {
            _ if figure.is_nan() => "–".to_owned(),
            Self::Micros if figure < 100.0 => format!("{figure:.1}"),
            Self::Micros | Self::Count | Self::Bytes => grouped(figure),
            Self::Millis | Self::Mebibytes => format!("{figure:.1}"),
            Self::Ratio => format!("{figure:.2}"),
            Self::Share => format!("{figure:.4}"),
        }
    }

    /// Returns the figure with its unit, for a table of different ones.
    pub(crate) fn show_with_name(self, figure: f64) -> String {
        let name = match self {
            Self::Micros => " µs",
            Self::Millis => " ms",
            Self::Mebibytes => " MiB",
            Self::Bytes => " B",
            Self::Ratio | Self::Share | Self::Count => "",
        };
        self.show(figure) + name
    }

    pub(crate) fn median(self, series: &Series) -> String {
        self.show(series.median())
    }

    /// Returns two medians, as in "119, 400"; "–" if there are none.
    pub(crate) fn medians(self, first: &Series, second: &Series) -> String {
        if first.median().is_nan() {
            return self.median(first);
        }
        format!("{}, {}", self.median(first), self.median(second))
    }
}

/// Writes a whole number with commas between thousands.
pub(crate) fn grouped(figure: f64) -> String {
    let digits = format!("{figure:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        let follows_digit = text.ends_with(|c: char| c.is_ascii_digit());
        if follows_digit && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Collects the rows of a table. All columns but the first hold figures.
pub(crate) struct Table(Vec<Vec<String>>);

impl Table {
    pub(crate) fn new<const N: usize>(head: [&str; N]) -> Self {
        Self(vec![head.map(str::to_owned).to_vec()])
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.0.push(cells.to_vec());
    }

    pub(crate) fn markdown(&self) -> String {
        let wide = |column: usize| {
            let cells = self.0.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.0[0].len()).map(wide).collect();
        let mut text = String::new();
        for (number, row) in self.0.iter().enumerate() {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                // Writing to a string does not fail.
                let _ = if column == 0 {
                    write!(text, "| {cell:<width$} |")
                } else {
                    write!(text, " {cell:>width$} |")
                };
            }
            text.push('\n');
            if number == 0 {
                for (column, width) in widths.iter().enumerate() {
                    let (start, end) = if column == 0 { ("|", "-") } else { ("", ":") };
                    let _ = write!(text, "{start}{}{end}|", "-".repeat(width + 1));
                }
                text.push('\n');
            }
        }
        text
    }
}

pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}
