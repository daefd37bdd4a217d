//! Figures as means over eight starts.
//!
//! A hold after an alarm makes every later alarm depend on where a series begins: one start moves the score of
//! a set by several points. So each series is judged eight times, with its first rows left out.

use std::io::{self, Write};

use sigmad_detectors::DetectorKind;

use crate::events::{EventRanking, EventRules};
use crate::judges::Judge;
use crate::nab::{NabRanking, PROFILES};
use crate::series::Series;
use crate::tables::{pairs, part};
use crate::{EvalSettings, Scored};

/// Rows left out: within the first fifteenth of the shortest series, and multiples of nothing.
const STARTS: [usize; 8] = [0, 7, 17, 29, 43, 67, 91, 113];
/// Rows of the highest scores, for the precision at this number.
const HIGHEST: usize = 20;
const DAYS_PER_WEEK: f64 = 7.0;

/// What one start gives: the main figure first.
type Figures = Vec<f64>;

/// A row for each judge and threshold; `pager` at 1 and 2, whose cost the score promises.
pub fn table(
    out: &mut impl Write,
    settings: &EvalSettings,
    rules: Option<EventRules>,
    all: &[Series],
) -> io::Result<()> {
    writeln!(out, "\n### Mean of {} starts\n", STARTS.len())?;
    let head = match rules {
        None => "standard | least | most | low FP | low FN | windows | false/week",
        Some(_) => {
            "F1 | least | most | precision | recall | false/day | false/week | precision at 20 \
             | at all events | minutes to detect"
        }
    };
    writeln!(out, "| detector | at | {head} |")?;
    writeln!(out, "| --- | --- |{}", " --- |".repeat(head.matches('|').count() + 1))?;
    let mut rows: Vec<(Judge, f64, Vec<Figures>)> = Vec::new();
    for judge in settings.judges() {
        rows.push((judge, judge.threshold(settings.threshold), Vec::new()));
        if judge == Judge::Detector(DetectorKind::Pager) && settings.threshold.is_none() {
            rows.push((judge, 2.0, Vec::new()));
        }
    }
    for start in STARTS {
        let all: Vec<Series> = all.iter().map(|series| series.without_first(start)).collect();
        for same in rows.chunk_by_mut(|a, b| a.0 == b.0) {
            let scored = Scored::new(same[0].0, same[0].1, &all);
            for (_, threshold, runs) in same {
                runs.push(match rules {
                    None => nab_figures(&all, &scored, *threshold),
                    Some(rules) => event_figures(&all, &scored, rules, *threshold),
                });
            }
        }
    }
    let digits = if rules.is_none() { 2 } else { 3 };
    for (judge, threshold, runs) in rows {
        writeln!(out, "| {} | {threshold:.1} | {} |", judge.name(), means(&runs, digits))?;
    }
    Ok(())
}

/// The mean of each figure; after the first also its extremes.
fn means(runs: &[Figures], digits: usize) -> String {
    let column = |figure: usize| runs.iter().map(move |run| run[figure]);
    let mut cells = Vec::new();
    for figure in 0..runs[0].len() {
        let known: Vec<f64> = column(figure).filter(|value| value.is_finite()).collect();
        let mean = known.iter().sum::<f64>() / known.len() as f64;
        if figure == 0 {
            let (least, most) = (
                column(0).fold(f64::INFINITY, f64::min),
                column(0).fold(f64::NEG_INFINITY, f64::max),
            );
            cells.extend([mean, least, most].map(|value| format!("{value:.digits$}")));
        } else {
            cells.push(part(mean));
        }
    }
    cells.join(" | ")
}

fn nab_figures(all: &[Series], scored: &Scored, threshold: f64) -> Figures {
    let ranking = NabRanking::new(pairs(all, &scored.scores));
    let [standard, low_fp, low_fn] =
        PROFILES.map(|profile| ranking.score(profile, Some(threshold)));
    let per_week = DAYS_PER_WEEK * standard.false_per_day;
    vec![standard.score, low_fp.score, low_fn.score, standard.hits as f64, per_week]
}

fn event_figures(all: &[Series], scored: &Scored, rules: EventRules, threshold: f64) -> Figures {
    let ranking = EventRanking::new(rules, pairs(all, &scored.scores));
    let score = ranking.score(Some(threshold));
    vec![
        score.f1,
        score.precision,
        score.recall,
        score.false_per_day,
        DAYS_PER_WEEK * score.false_per_day,
        ranking.precision_at(HIGHEST),
        ranking.precision_at(score.events),
        ranking.seconds_to_detect(threshold) / 60.0,
    ]
}
