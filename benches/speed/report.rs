//! Shows figures as medians, spreads and Markdown tables that can be read as they are.

/// Holds a named figure of a row, once for each round.
#[derive(Clone)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) rounds: Vec<f64>,
    /// Shows the least and the greatest beside the median.
    has_spread: bool,
}

impl Figure {
    /// Holds the figure of one round; none if it is `NaN`.
    pub(crate) fn new(name: &'static str, figure: f64) -> Self {
        Self {
            name,
            rounds: Vec::from_iter(Some(figure).filter(|figure| !figure.is_nan())),
            has_spread: false,
        }
    }

    pub(crate) fn with_spread(mut self) -> Self {
        self.has_spread = true;
        self
    }

    /// Returns the median, of an even number the mean of the middle two; `NaN` if there is no figure.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.rounds.clone();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (sorted.len().saturating_sub(1) / 2, sorted.len() / 2);
        match (sorted.get(low), sorted.get(high)) {
            (Some(low), Some(high)) => f64::midpoint(*low, *high),
            _ => f64::NAN,
        }
    }

    /// Returns the least and the greatest figure, as in "4.92 to 5.51".
    pub(crate) fn spread(&self) -> String {
        let least = self.rounds.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = self
            .rounds
            .iter()
            .copied()
            .fold(f64::NEG_INFINITY, f64::max);
        format!("{} to {}", show(least), show(greatest))
    }
}

/// Writes a figure with three digits or more, and commas between thousands; "–" for `NaN`.
pub(crate) fn show(figure: f64) -> String {
    let decimals = match figure.abs() {
        _ if figure.is_nan() => return "–".to_owned(),
        _ if figure.fract() == 0.0 => 0,
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 0.1 => 2,
        _ => 4,
    };
    let digits = format!("{figure:.decimals$}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        let follows_digit = text.ends_with(|c: char| c.is_ascii_digit());
        if decimals == 0 && follows_digit && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}

/// Collects the rows of a table. All columns but the first hold figures.
pub(crate) struct Table(Vec<Vec<String>>);

impl Table {
    pub(crate) fn new<const N: usize>(head: [&str; N]) -> Self {
        Self(vec![head.map(str::to_owned).to_vec()])
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.len() == 1
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.0.push(cells.to_vec());
    }

    /// Returns a table with a row for each name and a column for each figure.
    pub(crate) fn of(
        head: &str,
        names: impl IntoIterator<Item = impl ToString>,
        rows: impl IntoIterator<Item = impl AsRef<[Figure]>>,
    ) -> Self {
        let mut table = vec![vec![head.to_owned()]];
        for (name, figures) in names.into_iter().zip(rows) {
            let (mut heads, mut row) = (vec![head.to_owned()], vec![name.to_string()]);
            for figure in figures.as_ref() {
                heads.push(figure.name.to_owned());
                row.push(show(figure.median()));
                if figure.has_spread {
                    heads.push("least to greatest".to_owned());
                    row.push(figure.spread());
                }
            }
            table[0] = heads;
            table.push(row);
        }
        Self(table)
    }

    /// Returns a table with a row for each figure.
    pub(crate) fn list(figures: &[Figure]) -> Self {
        let mut table = Self::new(["figure", "median", "least to greatest"]);
        for figure in figures {
            table.row([
                figure.name.to_owned(),
                show(figure.median()),
                figure.spread(),
            ]);
        }
        table
    }

    pub(crate) fn markdown(&self) -> String {
        let widest = |column: usize| {
            let cells = self.0.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.0[0].len()).map(widest).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).enumerate();
            let cells = cells.map(|(column, (cell, &width))| match column {
                0 => format!("| {cell:<width$} |"),
                _ => format!(" {cell:>width$} |"),
            });
            cells.collect::<String>()
        };
        let mut lines: Vec<_> = self.0.iter().map(line).collect();
        let rules = widths.iter().map(|width| "-".repeat(width + 1));
        let rule = format!("|{}:|", rules.collect::<Vec<_>>().join(":|"));
        lines.insert(1, rule.replacen(":|", "-|", 1));
        lines.join("\n")
    }
}
