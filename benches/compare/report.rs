//! Rows of results, their tables, and the files that they are kept in.

#[path = "report/plot.rs"]
mod plot;

use std::fmt::Write as _;
use std::path::Path;
use std::{fs, io};

use serde_json::{Value, json};

use crate::load::Tally;
use crate::peers::DIRECT;
use crate::works::{Kind, Work};

/// One round of one proxy.
pub struct Row {
    work: &'static Work,
    pub proxy: String,
    pub round: usize,
    /// What the work is about, in its unit; the way without a proxy has none.
    figure: Option<f64>,
    rate: Option<f64>,
    /// Microseconds: half, 99 of 100, 999 of 1,000 were answered within.
    pub within: Option<[u32; 3]>,
    pub errors: u64,
    /// What else is worth a column.
    pub more: Vec<(&'static str, f64)>,
}

impl Row {
    /// Of a round of load, in which a proxy spent so many nanoseconds of processor time.
    pub fn of_load(work: &'static Work, proxy: &str, round: usize, cpu_ns: Option<u64>, mut tally: Tally) -> Self {
        tally.latencies.sort_unstable();
        let at = |share: f64| {
            let last = tally.latencies.len().saturating_sub(1);
            tally.latencies.get((last as f64 * share) as usize).copied().unwrap_or(0)
        };
        let done = tally.done.max(1) as f64;
        Self {
            work,
            proxy: proxy.to_owned(),
            round,
            figure: cpu_ns.map(|spent| spent as f64 / 1_000.0 / done),
            rate: Some(tally.done as f64 / tally.seconds),
            within: Some([at(0.5), at(0.99), at(0.999)]),
            errors: tally.errors,
            more: Vec::new(),
        }
    }

    /// Of a round whose figure is memory.
    pub fn of_memory(work: &'static Work, proxy: &str, round: usize, kib: f64, errors: u64) -> Self {
        let proxy = proxy.to_owned();
        Self { work, proxy, round, figure: Some(kib), rate: None, within: None, errors, more: Vec::new() }
    }
}

/// What a work's figure is.
fn unit(work: &Work) -> (&'static str, &'static str) {
    match work.kind {
        Kind::Idle => ("KiB each", "kib"),
        _ => ("µs of CPU each", "cpu_us"),
    }
}

/// Median, least and most.
fn spread(values: impl Iterator<Item = f64>) -> Option<[f64; 3]> {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    Some([values[values.len().checked_sub(1)? / 2], *values.first()?, *values.last()?])
}

/// The rows of one work.
struct Summary<'a> {
    work: &'static Work,
    rows: Vec<&'a Row>,
}

impl<'a> Summary<'a> {
    /// One for each work, in the order of the rows.
    fn all(rows: &'a [Row]) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for row in rows {
            match all.iter_mut().find(|summary| summary.work.name == row.work.name) {
                Some(summary) => summary.rows.push(row),
                None => all.push(Self { work: row.work, rows: vec![row] }),
            }
        }
        all
    }

    fn of(&self, proxy: &str) -> impl Iterator<Item = &'a Row> {
        self.rows.iter().copied().filter(move |row| row.proxy == proxy)
    }

    fn figure(&self, proxy: &str) -> Option<[f64; 3]> {
        spread(self.of(proxy).filter_map(|row| row.figure))
    }

    /// Of one to another, round by round.
    fn ratio(&self, proxy: &str, to: &str) -> Option<[f64; 3]> {
        spread(self.of(proxy).filter_map(|row| {
            let pair = self.of(to).find(|other| other.round == row.round)?;
            Some(row.figure? / pair.figure?)
        }))
    }

    fn proxies(&self) -> Vec<&'a str> {
        // The first round is in the order that was asked for.
        distinct(self.rows.iter().map(|row| row.proxy.as_str()))
    }

    /// Whom the others are measured by: the peers; where Repoint is beside itself, the first.
    fn measures(&self) -> Vec<&'a str> {
        let all = self.proxies();
        if matches!(self.work.kind, Kind::Moves | Kind::Million) {
            return all.into_iter().take(1).collect();
        }
        all.into_iter().filter(|proxy| !["repoint", DIRECT].contains(proxy)).collect()
    }

    fn table(&self) -> String {
        let measures = self.measures();
        let more = distinct(self.rows.iter().flat_map(|row| row.more.iter().map(|(name, _)| *name)));
        let mut head = vec!["proxy".to_owned(), format!("{}, median [least, most]", unit(self.work).0)];
        head.extend(measures.iter().map(|to| format!("× {to}")));
        head.extend(["each second", "p50 µs", "p99 µs", "p99.9 µs"].map(str::to_owned));
        head.extend(more.iter().map(|name| (*name).to_owned()));
        head.push("wrong".to_owned());
        let mut text = format!("\n### {}: {}\n\n", self.work.name, self.work.says);
        let _ = writeln!(text, "| {} |\n|{}", head.join(" | "), "---|".repeat(head.len()));
        for proxy in self.proxies() {
            let mut cells = vec![proxy.to_owned(), bracketed(self.figure(proxy), 1)];
            cells.extend(measures.iter().map(|to| bracketed(self.ratio(proxy, to), 2)));
            cells.push(median(spread(self.of(proxy).filter_map(|row| row.rate))));
            for at in 0..3 {
                cells.push(median(spread(self.of(proxy).filter_map(|row| Some(f64::from(row.within?[at]))))));
            }
            for name in &more {
                let values = self.of(proxy).flat_map(|row| row.more.iter().filter(|(known, _)| known == name));
                cells.push(median(spread(values.map(|(_, value)| *value))));
            }
            cells.push(self.of(proxy).map(|row| row.errors).sum::<u64>().to_string());
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
        text
    }
}

fn bracketed(spread: Option<[f64; 3]>, digits: usize) -> String {
    match spread {
        Some([median, least, most]) => format!("{median:.digits$} [{least:.digits$}, {most:.digits$}]"),
        None => "–".to_owned(),
    }
}

fn median(spread: Option<[f64; 3]>) -> String {
    spread.map_or_else(|| "–".to_owned(), |[median, ..]| format!("{median:.0}"))
}

fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut distinct = Vec::new();
    for name in names {
        if !distinct.contains(&name) {
            distinct.push(name);
        }
    }
    distinct
}

/// A table for each work.
pub fn tables(rows: &[Row]) -> String {
    Summary::all(rows).iter().map(Summary::table).collect()
}

/// Writes `results.jsonl`, `tables.md` and `plot.svg`.
pub fn write(folder: &Path, rows: &[Row]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("results.jsonl"), rows.iter().map(line).collect::<String>())?;
    fs::write(folder.join("tables.md"), tables(rows))?;
    fs::write(folder.join("plot.svg"), plot::of(&Summary::all(rows)))
}

fn line(row: &Row) -> String {
    let mut line = json!({ "work": row.work.name, "proxy": row.proxy, "round": row.round, "wrong": row.errors });
    if let Some(figure) = row.figure {
        line[unit(row.work).1] = json!(figure);
    }
    if let Some(rate) = row.rate {
        line["rate"] = json!(rate);
    }
    for (name, within) in ["p50_us", "p99_us", "p999_us"].iter().zip(row.within.into_iter().flatten()) {
        line[name] = json!(within);
    }
    for (name, value) in &row.more {
        line[*name] = Value::from(*value);
    }
    line.to_string() + "\n"
}
