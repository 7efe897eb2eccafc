//! A strict parser of the OpenMetrics text format 1.0. Some collectors reject a whole scrape for any error
//! that this rejects.

use std::collections::{BTreeMap, BTreeSet};

/// A family of metrics.
#[derive(Debug, Default)]
pub struct Family {
    pub kind: String,
    pub samples: Vec<Sample>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// The suffixes of the samples of a kind. The name of a family must not be the name of another family's sample.
fn suffixes(kind: &str) -> Option<&'static [&'static str]> {
    Some(match kind {
        "counter" => &["_total", "_created"],
        "histogram" => &["_bucket", "_count", "_sum", "_created"],
        "gauge" | "unknown" => &[""],
        "info" => &["_info"],
        _ => return None,
    })
}

/// Parses the families of a scrape. The error contains the invalid line.
pub fn parse(text: &str) -> Result<BTreeMap<String, Family>, String> {
    let body = text.strip_suffix("# EOF\n").ok_or("it does not end with # EOF")?;
    let mut reader = Reader::default();
    for (n, line) in body.split_terminator('\n').enumerate() {
        reader.line(line).map_err(|why| format!("line {}: {why}: {line}", n + 1))?;
    }
    reader.finish()?;
    Ok(reader.families)
}

#[derive(Default)]
struct Reader {
    families: BTreeMap<String, Family>,
    /// The family that is being read, and which of HELP, TYPE and UNIT it had.
    current: String,
    metadata: BTreeSet<String>,
    seen: BTreeSet<(String, BTreeMap<String, String>)>,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if let Some(rest) = line.strip_prefix("# ") {
            return self.metadata(rest);
        }
        if line.is_empty() || line.starts_with('#') {
            return Err("neither a sample nor metadata".into());
        }
        let sample = sample(line)?;
        let family = self.families.get_mut(&self.current).ok_or("a sample before any family")?;
        let allowed = suffixes(&family.kind).ok_or("its family has no TYPE")?;
        let suffix = sample.name.strip_prefix(&self.current);
        let suffix = suffix.filter(|suffix| allowed.contains(suffix)).ok_or("a sample of another family")?;
        let counts = ["_total", "_bucket", "_count", "_sum"].contains(&suffix);
        if counts && (sample.value.is_nan() || sample.value < 0.0) {
            return Err("what counts is no number or negative".into());
        }
        if (suffix == "_bucket") != sample.labels.contains_key("le") {
            return Err("le belongs to buckets and only there".into());
        }
        if !self.seen.insert((sample.name.clone(), sample.labels.clone())) {
            return Err("the same series twice".into());
        }
        family.samples.push(sample);
        Ok(())
    }

    fn metadata(&mut self, rest: &str) -> Result<(), String> {
        let mut parts = rest.splitn(3, ' ');
        let (what, name) = (parts.next().unwrap_or_default(), parts.next().ok_or("no name")?);
        let value = parts.next().ok_or("no value")?;
        if !is_name(name, true) {
            return Err("no name of a metric".into());
        }
        if name != self.current {
            self.finish()?;
            if self.families.contains_key(name) {
                return Err("a family in two parts".into());
            }
            self.families.insert(name.to_owned(), Family::default());
            (self.current, self.metadata) = (name.to_owned(), BTreeSet::new());
        }
        let family = self.families.get_mut(name).expect("inserted above");
        if !family.samples.is_empty() {
            return Err("metadata behind samples".into());
        }
        if !self.metadata.insert(what.to_owned()) {
            return Err("occurs twice".into());
        }
        match what {
            "HELP" => unescaped(value).map(drop)?,
            "TYPE" => {
                suffixes(value).ok_or("no kind of metric")?;
                family.kind = value.to_owned();
            }
            "UNIT" if name.ends_with(&format!("_{value}")) => {}
            _ => return Err("no metadata".into()),
        }
        Ok(())
    }

    /// Ends the current family, and checks its name against those of the others.
    fn finish(&mut self) -> Result<(), String> {
        let Some(family) = self.families.get(&self.current) else { return Ok(()) };
        let of = |name: &String, family: &Family| {
            let suffixes = suffixes(&family.kind).unwrap_or_default();
            suffixes.iter().chain([&""]).map(|suffix| format!("{name}{suffix}")).collect::<BTreeSet<_>>()
        };
        let own = of(&self.current, family);
        for (name, other) in self.families.iter().filter(|(name, _)| **name != self.current) {
            if let Some(both) = of(name, other).intersection(&own).next() {
                return Err(format!("{both} is a name of {name} and of {}", self.current));
            }
        }
        match &*family.kind {
            "histogram" => histogram(&self.current, family),
            _ => Ok(()),
        }
    }
}

/// Checks that buckets are cumulative, and that the last is unbounded and equals the count.
fn histogram(name: &str, family: &Family) -> Result<(), String> {
    let mut series: BTreeMap<BTreeMap<String, String>, Vec<&Sample>> = BTreeMap::new();
    for sample in &family.samples {
        let mut labels = sample.labels.clone();
        labels.remove("le");
        series.entry(labels).or_default().push(sample);
    }
    for (labels, samples) in series {
        let wrong = |why: &str| Err(format!("{name} {labels:?}: {why}"));
        let (mut before, mut count) = ((f64::NEG_INFINITY, 0.0), None);
        for sample in &samples {
            match sample.labels.get("le") {
                Some(bound) => {
                    let now = (number(bound)?, sample.value);
                    if now.0 <= before.0 || now.1 < before.1 {
                        return wrong("buckets do not rise");
                    }
                    before = now;
                }
                None if sample.name.ends_with("_count") => count = Some(sample.value),
                None => {}
            }
        }
        if before.0 != f64::INFINITY || count != Some(before.1) {
            return wrong("the last bucket is not +Inf, or not the count");
        }
    }
    Ok(())
}

fn sample(line: &str) -> Result<Sample, String> {
    let end = line.find(['{', ' ']).ok_or("no value")?;
    let (name, mut rest) = line.split_at(end);
    if !is_name(name, true) {
        return Err("no name of a sample".into());
    }
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"").ok_or("a label without a value")?;
            if !is_name(label, false) {
                return Err(format!("'{label}' is no name of a label"));
            }
            let mut is_escaped = false;
            let close = after.char_indices().find(|(_, c)| {
                let closes = *c == '"' && !is_escaped;
                is_escaped = *c == '\\' && !is_escaped;
                closes
            });
            let (close, _) = close.ok_or("a value without an end")?;
            if labels.insert(label.to_owned(), unescaped(&after[..close])?).is_some() {
                return Err("a label twice".into());
            }
            rest = &after[close + 1..];
            rest = match rest.strip_prefix(',') {
                Some(next) if !next.starts_with('}') => next,
                None if rest.starts_with('}') => rest,
                _ => return Err("labels are not parted by one comma".into()),
            };
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ').ok_or("no space before the value")?;
    Ok(Sample { name: name.to_owned(), labels, value: number(value)? })
}

fn is_name(name: &str, colons: bool) -> bool {
    let is_letter = |c: char| c.is_ascii_alphabetic() || c == '_' || (colons && c == ':');
    name.starts_with(is_letter) && name.chars().all(|c| is_letter(c) || c.is_ascii_digit())
}

fn unescaped(text: &str) -> Result<String, String> {
    let (mut plain, mut letters) = (String::new(), text.chars());
    while let Some(c) = letters.next() {
        plain.push(match c {
            '\\' => match letters.next() {
                Some('n') => '\n',
                Some(c @ ('\\' | '"')) => c,
                _ => return Err("an escape that is none".into()),
            },
            c => c,
        });
    }
    Ok(plain)
}

fn number(text: &str) -> Result<f64, String> {
    let plain = |c: char| c.is_ascii_digit() || "+-.eE".contains(c);
    match text {
        "+Inf" => Ok(f64::INFINITY),
        "-Inf" => Ok(f64::NEG_INFINITY),
        "NaN" => Ok(f64::NAN),
        _ if text.chars().all(plain) => text.parse().map_err(|_| format!("'{text}' is no number")),
        _ => Err(format!("'{text}' is no number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_good_is_read_and_what_is_not_is_refused() {
        let good = "# HELP a Help.\n# TYPE a counter\na_total{x=\"q\\\"\\\\\\n,}\"} 1\na_total 2.5e3\n# TYPE h histogram\n\
                    h_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n# TYPE g_seconds gauge\n# UNIT g_seconds seconds\n\
                    g_seconds -1\n# EOF\n";
        let families = parse(good).unwrap();
        assert_eq!(families["a"].samples[0].labels["x"], "q\"\\\n,}");
        for bad in [
            "a 1\n",
            "# TYPE a counter\na 1\n",
            "# TYPE a counter\na_total -1\n",
            "# TYPE a counter\na_total 1\na_total 2\n",
            "# TYPE a counter\n# TYPE a counter\n",
            "# TYPE a counter\n# TYPE b gauge\nb 1\na_total 1\n",
            "# TYPE a counter\n# TYPE a_total gauge\n",
            "# TYPE a gauge\na{x=\"\n\"} 1\n",
            "# TYPE a gauge\na{x=\"\\q\"} 1\n",
            "# TYPE a gauge\na{x=\"1\",} 1\n",
            "# TYPE a gauge\na{x=\"1\",x=\"2\"} 1\n",
            "# TYPE a gauge\na inf\n",
            "# TYPE a gauge\na  1\n",
            "# TYPE a-b gauge\n",
            "# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 1\nh_count 1\n",
            "# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_count 2\n",
            "\n",
        ] {
            assert!(parse(&format!("{bad}# EOF\n")).is_err(), "{bad}");
        }
        assert!(parse("# TYPE a gauge\na 1\n").is_err(), "it has no end");
    }
}
