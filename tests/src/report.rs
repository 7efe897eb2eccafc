//! The report of a benchmark, as Markdown for people and as JSON for programs.

use serde_json::{Map, Value};
use std::{fmt, path::Path, process::ExitCode, time::Duration};

pub struct Report {
    pub title: String,
    pub about: String,
    /// The introduction.
    pub facts: Value,
    pub sections: Vec<Section>,
}

/// One measurement.
pub struct Section {
    /// Its name in JSON.
    pub name: &'static str,
    pub title: &'static str,
    pub how: String,
    pub columns: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
    pub remarks: Vec<String>,
    /// The same figures as JSON.
    pub figures: Value,
    /// The number of messages and answers that were lost, out of order or errors.
    pub wrong: u64,
}

impl Report {
    pub fn wrong(&self) -> u64 {
        self.sections.iter().map(|section| section.wrong).sum()
    }

    /// Prints the report, and writes its figures to a file. The program fails if anything was lost.
    pub fn finish(&self, program: &str, file: Option<&Path>) -> ExitCode {
        print!("{self}");
        if let Some(file) = file
            && let Err(error) = std::fs::write(file, self.json())
        {
            eprintln!("{program}: {}: {error}", file.display());
            return ExitCode::FAILURE;
        }
        match self.wrong() {
            0 => ExitCode::SUCCESS,
            wrong => {
                eprintln!("{program}: {wrong} answers or messages were missing, out of order or errors");
                ExitCode::FAILURE
            }
        }
    }

    pub fn json(&self) -> String {
        let mut all = Map::new();
        all.insert("about".to_owned(), self.facts.clone());
        for section in &self.sections {
            all.insert(section.name.to_owned(), section.figures.clone());
        }
        all.insert("wrong".to_owned(), self.wrong().into());
        format!("{:#}\n", Value::Object(all))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "# {}\n\n{}", self.title, self.about)?;
        self.sections.iter().try_for_each(|section| write!(f, "\n{section}"))?;
        writeln!(f, "\nLost, out of order, or answered with an error: {}.", self.wrong())
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "## {}\n\n{}\n", self.title, self.how)?;
        writeln!(f, "| {} |", self.columns.join(" | "))?;
        let numbers = " ---: |".repeat(self.columns.len() - 1);
        writeln!(f, "| --- |{numbers}")?;
        self.rows.iter().try_for_each(|row| writeln!(f, "| {} |", row.join(" | ")))?;
        self.remarks.iter().try_for_each(|remark| writeln!(f, "\n{remark}"))
    }
}

/// Formats a figure with at least three significant digits, but without useless ones.
pub fn figure(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => grouped(value),
    }
}

fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::from(if value < 0.0 { "-" } else { "" });
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Rounds a figure for JSON, to the digits that were measured.
pub fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0
}

/// The given quantiles of the times, such as 0.99, in microseconds.
pub fn percentiles<const N: usize>(shares: [f64; N], times: impl Iterator<Item = Duration>) -> [f64; N] {
    let mut times: Vec<_> = times.collect();
    times.sort_unstable();
    shares.map(|share| {
        let at = (times.len() as f64 * share).ceil() as usize;
        // If there are no times, everything was lost, which is reported elsewhere.
        times.get(at.saturating_sub(1)).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    })
}
