//! A plot: bars for each work.

use std::fmt::Write as _;

use super::{Summary, spread, unit};
use crate::works::Kind;

const COLOURS: [&str; 6] = ["#0b7285", "#868e96", "#adb5bd", "#ced4da", "#dee2e6", "#e9ecef"];

/// What bars show: for each proxy median, least and most.
type Bars<'a> = Vec<(&'a str, [f64; 3])>;

/// Bars for each work, each as a part of the longest; where a work has latencies that proxies add, these below.
pub(super) fn of(summaries: &[Summary]) -> String {
    let mut body = String::new();
    let mut y = 34.0;
    for summary in summaries {
        let figures = |proxy| summary.figure(proxy).map(|figure| (proxy, figure));
        let bars = summary.proxies().into_iter().filter_map(figures).collect();
        group(&mut body, &mut y, summary.work.name, unit(summary.work).0, bars);
        if summary.work.kind == Kind::HalfLoad {
            for name in ["added p99 µs", "added p99.9 µs"] {
                let (title, unit) = name.rsplit_once(' ').unwrap_or((name, ""));
                group(&mut body, &mut y, title, unit, extra(summary, name));
            }
        }
    }
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='780' height='{y:.0}' font-family='sans-serif' font-size='11'>\
         <rect width='100%' height='100%' fill='white'/>\
         <text x='8' y='18' font-size='13'>What each proxy spends, shorter is better: median, least to most</text>\n\
         {body}</svg>\n"
    )
}

fn extra<'a>(summary: &Summary<'a>, name: &str) -> Bars<'a> {
    let of = |proxy: &'a str| {
        let values = summary.of(proxy).flat_map(|row| row.more.iter().filter(|(known, _)| *known == name));
        spread(values.map(|(_, value)| value.max(0.0))).map(|values| (proxy, values))
    };
    summary.proxies().into_iter().filter_map(of).collect()
}

fn group(body: &mut String, y: &mut f64, title: &str, unit: &str, mut bars: Bars) {
    bars.sort_by_key(|(proxy, _)| *proxy != "repoint");
    let most = bars.iter().map(|(_, [_, _, most])| *most).fold(0.001, f64::max);
    let unit = unit.trim_end_matches(" each").trim_end_matches(" of CPU");
    let _ = writeln!(body, "<text x='8' y='{:.0}' font-weight='bold'>{title}</text>", *y + 10.0);
    for (at, (proxy, values)) in bars.iter().enumerate() {
        let [median, least, high] = values.map(|value| value / most * 420.0);
        let colour = COLOURS[at.min(COLOURS.len() - 1)];
        let _ = writeln!(body, "<rect x='220' y='{y:.0}' width='{median:.1}' height='12' fill='{colour}'/>");
        let middle = *y + 6.0;
        let (from, to) = (220.0 + least, 220.0 + high);
        let _ = writeln!(body, "<path d='M{from:.1} {middle:.0}H{to:.1}' stroke='#212529'/>");
        let _ = writeln!(body, "<text x='110' y='{:.0}'>{proxy}</text>", *y + 10.0);
        let _ = writeln!(body, "<text x='{:.0}' y='{:.0}'>{:.1} {unit}</text>", to + 6.0, *y + 10.0, values[0]);
        *y += 15.0;
    }
    *y += 12.0;
}
