//! Percentiles, medians and tables: pure.

use std::time::Duration;

/// The `p`-th percentile (0 to 100) by nearest rank of values sorted ascending; nothing of nothing.
pub fn percentile(sorted: &[f64], p: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let rank = (p / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1).min(last)).copied()
}

/// The middle of the values, or the mean of the two middle ones; nothing of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        return sorted.get(middle).copied();
    }
    let (low, high) = (sorted.get(middle.checked_sub(1)?)?, sorted.get(middle)?);
    Some(f64::midpoint(*low, *high))
}

/// Milliseconds as people read them.
pub fn milliseconds(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(value) if value < 10.0 => format!("{value:.2} ms"),
        Some(value) if value < 1000.0 => format!("{value:.0} ms"),
        Some(value) => format!("{:.2} s", value / 1000.0),
    }
}

/// Bytes as people read them.
pub fn bytes(value: u64) -> String {
    let value = value as f64;
    if value < 1e6 {
        format!("{:.0} kB", value / 1e3)
    } else if value < 1e9 {
        format!("{:.1} MB", value / 1e6)
    } else {
        format!("{:.2} GB", value / 1e9)
    }
}

/// Seconds with one digit.
pub fn seconds(value: Duration) -> String {
    format!("{:.1} s", value.as_secs_f64())
}

/// Rows in columns as wide as their widest cell; all but the first column to the right.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(head.get(column).map(|cell| cell.chars().count())).max().unwrap_or_default()
    };
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .enumerate()
            .map(|(column, cell)| {
                if column == 0 {
                    format!("{cell:<0$}", width(column))
                } else {
                    format!("{cell:>0$}", width(column))
                }
            })
            .collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut text = line(&mut head.iter().copied());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

/// When payload number `index` of a constant rate is due.
pub fn due(index: u64, rate: u32) -> Duration {
    let (rate, seconds) = (u64::from(rate.max(1)), index / u64::from(rate.max(1)));
    Duration::from_secs(seconds) + Duration::from_nanos((index % rate) * 1_000_000_000 / rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&values, 50.0), Some(50.0));
        assert_eq!(percentile(&values, 99.0), Some(99.0));
        assert_eq!(percentile(&values, 100.0), Some(100.0));
        assert_eq!(percentile(&values, 0.0), Some(1.0));
        assert_eq!(percentile(&[7.0], 99.0), Some(7.0));
        assert_eq!(percentile(&[], 50.0), None);
    }

    #[test]
    fn a_median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn a_constant_rate_neither_drifts_nor_bunches() {
        for rate in [1, 3, 100, 1_000, 10_000] {
            assert_eq!(due(0, rate), Duration::ZERO);
            assert_eq!(due(u64::from(rate) * 3600, rate), Duration::from_secs(3600));
            let gaps: Vec<Duration> = (0..u64::from(rate) * 2)
                .map(|index| due(index + 1, rate) - due(index, rate))
                .collect();
            let ideal = Duration::from_secs(1) / rate;
            assert!(
                gaps.iter().all(|gap| gap.abs_diff(ideal) <= Duration::from_nanos(2)),
                "{rate}"
            );
        }
    }

    #[test]
    fn figures_are_readable() {
        assert_eq!(milliseconds(Some(1.234)), "1.23 ms");
        assert_eq!(milliseconds(Some(45.6)), "46 ms");
        assert_eq!(milliseconds(Some(1500.0)), "1.50 s");
        assert_eq!(milliseconds(None), "-");
        assert_eq!(bytes(52_400_000), "52.4 MB");
        let rows =
            vec![vec!["a".to_owned(), "10".to_owned()], vec!["long".to_owned(), "5".to_owned()]];
        assert_eq!(table(&["name", "n"], &rows), "name   n\na     10\nlong   5\n");
    }
}
