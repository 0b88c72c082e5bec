//! Waiting that can be watched: one line that moves on a terminal, a line per change elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

/// One thing that is waited for.
pub struct Progress {
    bar: Option<ProgressBar>,
    began: Instant,
    last: String,
    told: Instant,
}

impl Progress {
    /// Begins.
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("  {spinner} [{elapsed:>4}] {msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar, began: Instant::now(), last: String::new(), told: Instant::now() }
    }

    /// What is so now. Told again when it changed, or after 15 s.
    pub fn tell(&mut self, message: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(message.to_owned()),
            None if message != self.last || self.told.elapsed() >= Duration::from_secs(15) => {
                println!("  [{:>3} s] {message}", self.began.elapsed().as_secs());
                self.told = Instant::now();
            }
            None => {}
        }
        message.clone_into(&mut self.last);
    }

    /// Ends; returns how long it took.
    pub fn done(self) -> Duration {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.began.elapsed()
    }
}

/// A step's title.
pub fn title(text: &str) {
    println!("\n{text}");
}
