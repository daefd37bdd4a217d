//! The tables of `sigmad eval`, as Markdown.

use std::io::{self, Write};

use crate::Scored;
use crate::events::{EventRanking, EventRules};
use crate::ghosts::{USUAL, within_range};
use crate::judges::Judge;
use crate::nab::{NabRanking, NabScore, PROFILES};
use crate::noise::{Noise, SAMPLED, SCORES, SPIKE_AFTER, SPIKES, Sampled, spikes_found};
use crate::series::Series;
use crate::synthetic::Confusion;

/// The seed of the noise in tables. Others are for choosing constants.
const NOISE_SEED: u64 = 1;

/// Each series with its scores.
pub fn pairs<'a>(
    all: &'a [Series],
    scores: &'a [Vec<f64>],
) -> impl Iterator<Item = (&'a Series, &'a [f64])> + Clone {
    all.iter().zip(scores).map(|(series, scores)| (series, scores.as_slice()))
}

/// NAB's scores.
pub fn nab(out: &mut impl Write, all: &[Series], judged: &[Scored]) -> io::Result<()> {
    writeln!(
        out,
        "| detector | best: standard / low FP / low FN | at | windows | false rows \
              | fixed: standard / low FP / low FN | at | windows | false rows |"
    )?;
    writeln!(out, "| --- | --- | --- | --- | --- | --- | --- | --- | --- |")?;
    for scored in judged {
        let ranking = NabRanking::new(pairs(all, &scored.scores));
        let cells = |threshold: Option<f64>| {
            let scores: Vec<NabScore> =
                PROFILES.iter().map(|&profile| ranking.score(profile, threshold)).collect();
            let standard = scores[0];
            let three: Vec<_> = scores.iter().map(|s| format!("{:.2}", s.score)).collect();
            format!(
                "{} | {:.4} | {}/{} | {}",
                three.join(" / "),
                standard.threshold,
                standard.hits,
                standard.windows,
                standard.false_rows
            )
        };
        writeln!(
            out,
            "| {} | {} | {} |",
            scored.judge.name(),
            cells(None),
            cells(Some(scored.threshold))
        )?;
    }
    Ok(())
}

/// Scores by event.
pub fn events(
    out: &mut impl Write,
    rules: EventRules,
    all: &[Series],
    judged: &[Scored],
) -> io::Result<()> {
    writeln!(
        out,
        "| detector | best: F1 | precision | recall | at | false/day \
              | fixed: F1 | precision | recall | at | events | false/day |"
    )?;
    writeln!(out, "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")?;
    for scored in judged {
        let ranking = EventRanking::new(rules, pairs(all, &scored.scores));
        let best = ranking.score(None);
        let fixed = ranking.score(Some(scored.threshold));
        writeln!(
            out,
            "| {} | {:.3} | {:.3} | {:.3} | {:.4} | {} | {:.3} | {:.3} | {:.3} | {:.4} | {}/{} | {} |",
            scored.judge.name(),
            best.f1,
            best.precision,
            best.recall,
            best.threshold,
            part(best.false_per_day),
            fixed.f1,
            fixed.precision,
            fixed.recall,
            fixed.threshold,
            fixed.hits,
            fixed.events,
            part(fixed.false_per_day),
        )?;
    }
    Ok(())
}

/// Scores by row of a scenario.
pub fn scenario(out: &mut impl Write, all: &[Series], judged: &[Scored]) -> io::Result<()> {
    writeln!(
        out,
        "| detector | TP | TN | FP | FN | precision | recall | accuracy | FP rate \
              | false/day | events |"
    )?;
    writeln!(out, "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")?;
    for scored in judged {
        let is_flagged = |score| scored.is_anomaly(score);
        let c = Confusion::new(pairs(all, &scored.scores), is_flagged);
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {:.4} | {:.5} | {:.3} | {}/{} |",
            scored.judge.name(),
            c.true_positive,
            c.true_negative,
            c.false_positive,
            c.false_negative,
            part(c.precision()),
            part(c.recall()),
            c.accuracy(),
            c.false_positive_rate(),
            c.false_per_day,
            c.events_found,
            c.events,
        )?;
    }
    Ok(())
}

/// Alarms on usual values.
pub fn ghosts(out: &mut impl Write, judges: &[Judge], threshold: Option<f64>) -> io::Result<()> {
    let names: Vec<&str> = judges.iter().map(|judge| judge.name()).collect();
    writeln!(out, "\n## Ghosts in streams of usual values, twelve days each\n")?;
    writeln!(out, "| values | every | streams | {} |", names.join(" | "))?;
    writeln!(out, "| --- | --- | --- |{}", " --- |".repeat(names.len()))?;
    let mut totals = vec![[0; 2]; judges.len()];
    let mut streams = 0;
    for (usual, minutes) in USUAL {
        let all = usual.series(minutes);
        let mut counts = Vec::with_capacity(judges.len());
        for (judge, total) in judges.iter().zip(&mut totals) {
            let threshold = judge.threshold(threshold);
            let scored = Scored::new(*judge, threshold, &all);
            let mut count = 0;
            for (series, scores) in pairs(&all, &scored.scores) {
                let (is_alarm, is_known) =
                    (|row: usize| scores[row] >= threshold, within_range(&series.values));
                count += usual.ghosts(series, is_alarm);
                total[1] += usual.ghosts(series, |row| is_alarm(row) && is_known[row]);
            }
            total[0] += count;
            counts.push(count.to_string());
        }
        streams += all.len();
        writeln!(
            out,
            "| {} | {minutes} min | {} | {} |",
            usual.name(),
            all.len(),
            counts.join(" | ")
        )?;
    }
    for (row, name) in ["all", "of values within the range so far"].into_iter().enumerate() {
        let totals: Vec<String> = totals.iter().map(|total| total[row].to_string()).collect();
        writeln!(out, "| {name} | | {streams} | {} |", totals.join(" | "))?;
    }
    Ok(())
}

/// What the scores of `pager` promise and cost on noise, and the spikes that it finds in it.
pub fn noise(out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "\n## False alarms of pager per stream and day on noise\n")?;
    let heads: Vec<String> = SCORES.iter().map(|score| format!("at {score:.0}")).collect();
    writeln!(out, "| noise | every | stream-days | {} |", heads.join(" | "))?;
    writeln!(out, "| --- | --- | --- |{}", " --- |".repeat(SCORES.len()))?;
    let promised: Vec<String> =
        SCORES.iter().map(|score| format!("{}", 10f64.powf(-score))).collect();
    writeln!(out, "| promised | | | {} |", promised.join(" | "))?;
    for noise in Noise::ALL {
        for sampled in SAMPLED {
            let rates = noise.per_day(sampled, NOISE_SEED).map(|rate| format!("{rate:.4}"));
            writeln!(
                out,
                "| {} | {} s | {} | {} |",
                noise.name(),
                sampled.interval_s,
                sampled.streams * sampled.days,
                rates.join(" | ")
            )?;
        }
    }
    let heads: Vec<String> = SPIKE_AFTER.iter().map(|after| format!("after {after}")).collect();
    writeln!(out, "\n## Spikes of seven deviations found, of {SPIKES}\n")?;
    writeln!(out, "| every | {} |", heads.join(" | "))?;
    writeln!(out, "| --- |{}", " --- |".repeat(SPIKE_AFTER.len()))?;
    for Sampled { interval_s, .. } in SAMPLED {
        let found =
            SPIKE_AFTER.map(|after| spikes_found(interval_s, after, NOISE_SEED).to_string());
        writeln!(out, "| {interval_s} s | {} |", found.join(" | "))?;
    }
    Ok(())
}

/// Of nothing there is no part.
pub fn part(part: f64) -> String {
    if !part.is_finite() { String::new() } else { format!("{part:.3}") }
}
