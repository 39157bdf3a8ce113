//! Tables, results as lines of JSON, and a plot.

use std::fmt::Write as _;
use std::path::Path;
use std::{fs, io};

use serde_json::json;

use crate::load::Tally;
use crate::works::Work;

/// One round of one proxy.
pub struct Row {
    work: &'static str,
    says: &'static str,
    proxy: String,
    round: usize,
    /// Microseconds of processor time for each request.
    cpu: f64,
    rate: f64,
    /// Microseconds: half, 99 of 100, 999 of 1,000 were answered within.
    within: [u32; 3],
    pub errors: u64,
}

impl Row {
    pub fn new(work: &'static Work, proxy: &str, round: usize, cpu_ns: u64, mut tally: Tally) -> Self {
        tally.latencies.sort_unstable();
        let at = |share: f64| {
            let last = tally.latencies.len().saturating_sub(1);
            tally.latencies.get((last as f64 * share) as usize).copied().unwrap_or(0)
        };
        let done = tally.done.max(1) as f64;
        Self {
            work: work.name,
            says: work.says,
            proxy: proxy.to_owned(),
            round,
            cpu: cpu_ns as f64 / 1_000.0 / done,
            rate: tally.done as f64 / tally.seconds,
            within: [at(0.5), at(0.99), at(0.999)],
            errors: tally.errors,
        }
    }
}

/// Median, least and most.
fn spread(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let (Some(least), Some(most)) = (values.first(), values.last()) else { return [0.0; 3] };
    [values[values.len() / 2], *least, *most]
}

struct Summary<'a> {
    rows: &'a [Row],
    work: &'a str,
}

impl<'a> Summary<'a> {
    fn of(&self, proxy: &'a str) -> impl Iterator<Item = &'a Row> {
        let work = self.work;
        self.rows.iter().filter(move |row| row.work == work && row.proxy == proxy)
    }

    /// Of one to another, round by round.
    fn ratio(&self, proxy: &'a str, to: &'a str) -> [f64; 3] {
        spread(self.of(proxy).flat_map(|row| {
            let pair = self.of(to).find(|other| other.round == row.round);
            pair.map(|other| row.cpu / other.cpu)
        }))
    }

    fn proxies(&self) -> Vec<&'a str> {
        distinct(self.rows.iter().filter(|row| row.work == self.work).map(|row| row.proxy.as_str()))
    }
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
    let mut text = String::new();
    for work in distinct(rows.iter().map(|row| row.work)) {
        let summary = Summary { rows, work };
        let proxies = summary.proxies();
        let says = rows.iter().find(|row| row.work == work).map_or("", |row| row.says);
        let _ = write!(text, "\n### {work}: {says}\n\n| proxy | µs of CPU each, median [least, most] |");
        for to in proxies.iter().filter(|proxy| **proxy != "repoint") {
            let _ = write!(text, " × {to} |");
        }
        let _ = write!(text, " each second | p50 µs | p99 µs | p99.9 µs | wrong |\n|---|---|");
        let _ = writeln!(
            text,
            "{}---|---|---|---|---|",
            "---|".repeat(proxies.iter().filter(|proxy| **proxy != "repoint").count())
        );
        for proxy in &proxies {
            let [median, least, most] = spread(summary.of(proxy).map(|row| row.cpu));
            let _ = write!(text, "| {proxy} | {median:.1} [{least:.1}, {most:.1}] |");
            for to in proxies.iter().filter(|proxy| **proxy != "repoint") {
                let [median, least, most] = summary.ratio(proxy, to);
                let _ = write!(text, " {median:.2} [{least:.2}, {most:.2}] |");
            }
            let within = |at: usize| spread(summary.of(proxy).map(|row| f64::from(row.within[at])))[0];
            let errors: u64 = summary.of(proxy).map(|row| row.errors).sum();
            let rate = spread(summary.of(proxy).map(|row| row.rate))[0];
            let _ = writeln!(text, " {rate:.0} | {:.0} | {:.0} | {:.0} | {errors} |", within(0), within(1), within(2));
        }
    }
    text
}

/// Writes `results.jsonl`, `tables.md` and `plot.svg`.
pub fn write(folder: &Path, rows: &[Row]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let line = |row: &Row| {
        json!({ "work": row.work, "proxy": row.proxy, "round": row.round, "cpu_us": row.cpu, "rate": row.rate,
            "p50_us": row.within[0], "p99_us": row.within[1], "p999_us": row.within[2], "wrong": row.errors })
        .to_string()
            + "\n"
    };
    fs::write(folder.join("results.jsonl"), rows.iter().map(line).collect::<String>())?;
    fs::write(folder.join("tables.md"), tables(rows))?;
    fs::write(folder.join("plot.svg"), plot(rows))
}

/// Bars of processor time, for each work as a part of the most that any proxy takes.
fn plot(rows: &[Row]) -> String {
    const COLOURS: [&str; 5] = ["#0b7285", "#868e96", "#adb5bd", "#ced4da", "#dee2e6"];
    let mut body = String::new();
    let mut y = 34.0;
    for work in distinct(rows.iter().map(|row| row.work)) {
        let summary = Summary { rows, work };
        let mut proxies = summary.proxies();
        proxies.sort_by_key(|proxy| *proxy != "repoint");
        let cpu = |proxy| spread(summary.of(proxy).map(|row| row.cpu));
        let most = proxies.iter().map(|proxy| cpu(proxy)[2]).fold(0.001, f64::max);
        let _ = writeln!(body, "<text x='8' y='{:.0}' font-weight='bold'>{work}</text>", y + 10.0);
        for (at, proxy) in proxies.iter().enumerate() {
            let [median, least, high] = cpu(proxy).map(|cpu| cpu / most * 420.0);
            let colour = COLOURS[at.min(COLOURS.len() - 1)];
            let _ = writeln!(body, "<rect x='190' y='{y:.0}' width='{median:.1}' height='12' fill='{colour}'/>");
            let middle = y + 6.0;
            let (from, to) = (190.0 + least, 190.0 + high);
            let _ = writeln!(body, "<path d='M{from:.1} {middle:.0}H{to:.1}' stroke='#212529'/>");
            let _ = writeln!(body, "<text x='100' y='{:.0}'>{proxy}</text>", y + 10.0);
            let _ = writeln!(body, "<text x='{:.0}' y='{:.0}'>{:.1} µs</text>", to + 6.0, y + 10.0, cpu(proxy)[0]);
            y += 15.0;
        }
        y += 12.0;
    }
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='720' height='{y:.0}' font-family='sans-serif' font-size='11'>\
         <rect width='100%' height='100%' fill='white'/>\
         <text x='8' y='18' font-size='13'>CPU time of the proxy for each request: median, least to most</text>\n{body}</svg>\n"
    )
}
