//! The live view: a few lines that move on a terminal, plain lines anywhere else.
//!
//! Whether there are colours is decided before ([`super::Options::colours`]).

use std::io;
use std::time::Duration;

use console::{Term, is_dumb, style};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::text::{Scene, count};

/// How often a plain line is written, where there is no terminal.
const PLAIN_EVERY: Duration = Duration::from_secs(2);

/// Drawings a second, at most: as many as [`View::show`] is meant to be called.
const FRAMES: u8 = 10;

/// Where the demo is shown.
pub(super) struct View {
    term: Term,
    face: Face,
}

enum Face {
    Live(Live),
    /// The time from which on the next line is due.
    Plain(Duration),
}

impl View {
    /// Says `intro` and gets ready.
    ///
    /// # Errors
    /// That nothing can be written there.
    pub(super) fn open(term: Term, intro: &str) -> io::Result<Self> {
        term.write_line(intro)?;
        let face = match term.is_term() && !is_dumb() {
            true => Face::Live(Live::new(term.size().1)),
            false => Face::Plain(PLAIN_EVERY),
        };
        Ok(Self { term, face })
    }

    /// Shows where things stand; cheap enough for ten times a second.
    ///
    /// # Errors
    /// That nothing can be written any more.
    pub(super) fn show(&mut self, scene: &Scene) -> io::Result<()> {
        match &mut self.face {
            Face::Live(live) => live.show(scene),
            Face::Plain(due) if scene.elapsed >= *due => {
                *due = scene.elapsed + PLAIN_EVERY;
                self.term.write_line(&scene.line())?;
            }
            Face::Plain(_) => {}
        }
        Ok(())
    }

    /// Sums up below what was shown last.
    ///
    /// # Errors
    /// That nothing can be written any more.
    pub(super) fn close(self, scene: &Scene) -> io::Result<()> {
        if let Face::Live(live) = self.face {
            // Left standing, not cleared: the terminal has written ^C below them, and whoever
            // counts lines upwards from there is one off.
            live.0.set_draw_target(ProgressDrawTarget::hidden());
            self.term.write_str("\n")?;
        }
        self.term.write_str("\n")?;
        self.term.write_str(&scene.summary())
    }
}

/// One progress bar, which is the traffic cut, with the other figures written above it.
struct Live(ProgressBar);

impl Live {
    fn new(columns: u16) -> Self {
        let width = columns.saturating_sub(30).clamp(10, 40);
        let template = format!(
            "{{spinner:.cyan}} {{msg}}\n  {:<18} {{pos:>3}} % {{bar:{width}.green/dim}}",
            "traffic cut"
        );
        let look = ProgressStyle::with_template(&template)
            .expect("a test builds the template")
            .progress_chars("█▉▊▋▌▍▎▏ ")
            .tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ ");
        let target = ProgressDrawTarget::stdout_with_hz(FRAMES);
        Self(ProgressBar::with_draw_target(Some(100), target).with_style(look))
    }

    fn show(&self, scene: &Scene) {
        let checks = style(scene.checks());
        let checks = match scene.is_clean() {
            true => checks.green(),
            false => checks.red().bold(),
        };
        let mut text = format!("polling for {} s; Ctrl-C sums up", scene.elapsed.as_secs());
        for (label, figure) in [
            ("polls answered", scene.polls()),
            ("upstream fetches", count(scene.upstream)),
            ("median answer", scene.speed()),
            ("steps", scene.steps()),
            ("checked", checks.to_string()),
        ] {
            text.push_str(&format!("\n  {:<18} {figure}", label));
        }
        self.0.update(|state| state.set_pos(scene.cut()));
        self.0.set_message(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_valid() {
        Live::new(80);
    }
}
