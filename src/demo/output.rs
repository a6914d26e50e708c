//! Writes the demo's figures: a live view on a terminal, rows of plain text anywhere else.

use std::io;
use std::time::Duration;

use console::{Term, is_dumb, style, truncate_str};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::snapshot::{ROW_HEADER, Snapshot, count, duration};

/// The time between two rows of plain text.
const ROW_INTERVAL: Duration = Duration::from_secs(2);

/// The most drawings of the live view per second.
const MAX_FRAME_RATE: u8 = 10;

/// Writes snapshots to standard output.
pub(super) struct Output {
    term: Term,
    mode: Mode,
}

enum Mode {
    /// One progress bar, which shows the traffic cut. Its message holds the other figures.
    Live { bar: ProgressBar, columns: usize },
    /// Rows; the next one is due at this time since the start.
    Rows { due: Duration },
}

impl Output {
    /// Writes `intro` and prepares the view.
    ///
    /// # Errors
    /// Returns an error if standard output cannot be written.
    pub(super) fn open(term: Term, intro: &str) -> io::Result<Self> {
        term.write_line(intro)?;
        let mode = if term.is_term() && !is_dumb() {
            let columns = usize::from(term.size().1);
            Mode::Live {
                bar: progress_bar(columns),
                columns,
            }
        } else {
            term.write_line(ROW_HEADER)?;
            Mode::Rows { due: ROW_INTERVAL }
        };
        Ok(Self { term, mode })
    }

    /// Shows the snapshot. May be called up to [`MAX_FRAME_RATE`] times per second.
    ///
    /// # Errors
    /// Returns an error if standard output cannot be written any more.
    pub(super) fn show(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        match &mut self.mode {
            Mode::Live { bar, columns } => {
                bar.update(|state| state.set_pos(snapshot.traffic_cut()));
                bar.set_message(live_rows(snapshot, *columns));
            }
            Mode::Rows { due } if snapshot.elapsed >= *due => {
                *due = snapshot.elapsed + ROW_INTERVAL;
                self.term.write_line(&snapshot.row())?;
            }
            Mode::Rows { .. } => {}
        }
        Ok(())
    }

    /// Writes the summary below the view.
    ///
    /// # Errors
    /// Returns an error if standard output cannot be written any more.
    pub(super) fn close(self, snapshot: &Snapshot) -> io::Result<()> {
        if let Mode::Live { bar, .. } = self.mode {
            // The view stays. It cannot be cleared, because the terminal has written `^C` below it,
            // and indicatif would count the lines wrongly.
            bar.set_draw_target(ProgressDrawTarget::hidden());
            self.term.write_str("\n")?;
        }
        self.term.write_str("\n")?;
        self.term.write_str(&snapshot.summary())
    }
}

fn progress_bar(columns: usize) -> ProgressBar {
    let width = columns.saturating_sub(30).clamp(10, 40);
    let template = format!(
        "{{spinner:.cyan}} {{msg}}\n  {:<18} {{pos:>3}} % {{bar:{width}.green/dim}}",
        "traffic cut"
    );
    let style = ProgressStyle::with_template(&template)
        .expect("a test builds the template")
        // The filled part, its end, and the track: all of them visible without colours.
        .progress_chars("━╸─")
        .tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ ");
    let target = ProgressDrawTarget::stdout_with_hz(MAX_FRAME_RATE);
    ProgressBar::with_draw_target(Some(100), target).with_style(style)
}

/// Returns the lines above the bar, each cut to `columns`.
fn live_rows(snapshot: &Snapshot, columns: usize) -> String {
    let checks = style(snapshot.checks());
    let checks = match snapshot.problems() {
        0 => checks.green(),
        _ => checks.red().bold(),
    };
    let elapsed = duration(Duration::from_secs(snapshot.elapsed.as_secs()));
    let mut text = format!("polling for {elapsed}; Ctrl-C ends with a summary");
    for (label, figure) in [
        ("polls answered", snapshot.polls()),
        ("upstream fetches", count(snapshot.fetches)),
        ("median latency", snapshot.medians()),
        ("steps", snapshot.steps()),
        ("checked", checks.to_string()),
    ] {
        let row = format!("  {label:<18} {figure}");
        text.push('\n');
        text.push_str(&truncate_str(&row, columns, "…"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::checker::Figures;

    #[test]
    fn the_template_is_valid() {
        progress_bar(80);
    }

    #[test]
    fn no_row_is_wider_than_the_terminal() {
        let figures = Figures {
            errors: 1,
            last_error: Some("connection failed: ".repeat(9)),
            ..Figures::default()
        };
        let snapshot = Snapshot {
            figures,
            fetches: 1,
            elapsed: Duration::from_secs(7530),
        };
        let text = live_rows(&snapshot, 80);
        assert!(text.starts_with("polling for 2 h 5 min;"), "{text}");
        for row in text.lines() {
            assert!(console::measure_text_width(row) <= 80, "{row}");
        }
    }
}
