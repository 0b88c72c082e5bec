//! A run as a picture: time from left to right, a line for each node, an arrow for each message.

use crate::trace::{Entry, Trace};

/// Microseconds for one unit to the right.
const SCALE: u64 = 100;
const ROW: u64 = 90;
const TOP: u64 = 60;
const LEFT: u64 = 60;
/// The most arrows. The newest ones are drawn.
const MOST: usize = 6_000;

const COLOURS: &[(&str, &str)] = &[
    ("Vertex", "#9aa5b1"),
    ("Fetched", "#9aa5b1"),
    ("PRE-PREPARE", "#1f77b4"),
    ("PREPARE", "#2ca02c"),
    ("COMMIT", "#ff7f0e"),
    ("VIEW-CHANGE", "#d62728"),
    ("NEW-VIEW", "#9467bd"),
    ("Checkpoint", "#8c564b"),
    ("Stable", "#8c564b"),
    ("Records", "#17becf"),
    ("FetchRecords", "#bcbd22"),
    ("FetchLane", "#bcbd22"),
    ("FetchBranch", "#7f6000"),
];

fn colour(kind: &str) -> Option<&'static str> {
    COLOURS.iter().find(|(name, _)| *name == kind).map(|(_, colour)| *colour)
}

const fn time_of(entry: &Entry) -> u64 {
    match entry {
        Entry::Sent { at, .. }
        | Entry::Executed { at, .. }
        | Entry::Down { at, .. }
        | Entry::Up { at, .. }
        | Entry::Note { at, .. } => *at,
    }
}

/// Draws the end of a run. Heartbeats and acknowledgements are left out.
#[must_use]
pub fn draw(trace: &Trace, nodes: usize) -> String {
    let shown =
        |entry: &&Entry| !matches!(entry, Entry::Sent { kind, .. } if colour(kind).is_none());
    let entries: Vec<&Entry> = trace.entries.iter().filter(shown).collect();
    let entries = &entries[entries.len().saturating_sub(MOST)..];
    let begin = entries.first().map_or(0, |entry| time_of(entry));
    let end = entries.last().map_or(0, |entry| time_of(entry)) + 20_000;
    let x = |at: u64| LEFT + at.saturating_sub(begin) / SCALE;
    let y = |node: usize| TOP + node as u64 * ROW;
    let (width, height) = (x(end) + LEFT, y(nodes));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"monospace\" font-size=\"11\">\n"
    );
    line(&mut svg, "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>");
    for (index, (name, colour)) in COLOURS.iter().enumerate() {
        line(
            &mut svg,
            &format!(
                "<text x=\"{}\" y=\"14\" fill=\"{colour}\">{name}</text>",
                LEFT + index as u64 * 95
            ),
        );
    }
    for node in 0..nodes {
        line(
            &mut svg,
            &format!(
                "<text x=\"8\" y=\"{0}\">node {node}</text><line x1=\"{LEFT}\" y1=\"{0}\" x2=\"{width}\" y2=\"{0}\" stroke=\"#ccc\"/>",
                y(node)
            ),
        );
    }
    for at in (begin / 10_000 * 10_000..end).step_by(10_000).filter(|at| *at >= begin) {
        line(
            &mut svg,
            &format!("<text x=\"{}\" y=\"30\" fill=\"#888\">{} ms</text>", x(at), at / 1000),
        );
    }
    for entry in entries {
        element(&mut svg, entry, &x, &y);
    }
    svg.push_str("</svg>\n");
    svg
}

fn line(svg: &mut String, text: &str) {
    svg.push_str(text);
    svg.push('\n');
}

fn element(svg: &mut String, entry: &Entry, x: &impl Fn(u64) -> u64, y: &impl Fn(usize) -> u64) {
    let text = match entry {
        Entry::Sent { at, from, to, kind, arrives } => {
            let colour = colour(kind).unwrap_or("black");
            // What is lost ends on half its way.
            let (x2, y2, dash) = arrives
                .map_or((x(at + 300), u64::midpoint(y(*from), y(*to)), "4"), |arrives| {
                    (x(arrives), y(*to), "0")
                });
            format!(
                "<line x1=\"{}\" y1=\"{}\" x2=\"{x2}\" y2=\"{y2}\" stroke=\"{colour}\" stroke-dasharray=\"{dash}\"><title>{kind} {from} to {to}</title></line>",
                x(*at),
                y(*from)
            )
        }
        Entry::Executed { at, node, sequence } => {
            format!(
                "<circle cx=\"{0}\" cy=\"{1}\" r=\"4\"/><text x=\"{0}\" y=\"{2}\">{sequence}</text>",
                x(*at),
                y(*node),
                y(*node) - 8
            )
        }
        Entry::Down { at, node } => {
            format!(
                "<text x=\"{}\" y=\"{}\" fill=\"#d62728\" font-size=\"18\">&#10006;</text>",
                x(*at),
                y(*node) + 6
            )
        }
        Entry::Up { at, node } => {
            format!(
                "<text x=\"{}\" y=\"{}\" fill=\"#2ca02c\" font-size=\"14\">&#9650;</text>",
                x(*at),
                y(*node) + 5
            )
        }
        Entry::Note { at, text } => {
            let text = text.replace('&', "&amp;").replace('<', "&lt;");
            format!("<text x=\"{}\" y=\"44\" fill=\"#555\">{text}</text>", x(*at))
        }
    };
    line(svg, &text);
}
