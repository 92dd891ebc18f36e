//! Plots as SVG: bars of medians with their range; for programs, bars of the largest cluster with the range over all sizes.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::super::figures::{Figures, Measure, Spread};
use super::super::programs::{SIZES, forwards, subject};
use super::super::systems::System;
use super::tables::branches;

const WIDTH: u32 = 800;
/// Height of a bar with its gap, and of what is above and below all bars, pixels.
const ROW: u32 = 28;
const FRAME: u32 = 80;
const LABELS: u32 = 330;

/// Colours of what is ours, and of what it is compared with.
const OURS: RGBColor = RGBColor(0xc4, 0x4e, 0x1c);
const OTHERS: RGBColor = RGBColor(0x8a, 0x9b, 0xa8);

/// One bar.
struct Bar {
    label: String,
    spread: Spread,
    color: RGBColor,
}

/// Plots one measure into `directory`, named after its key.
pub(super) fn write(measure: Measure, figures: &Figures, directory: &Path) -> Result<()> {
    let file = directory.join(format!("{}.svg", measure.about().key));
    let all = if measure == Measure::ProgramTime {
        bars_of_programs(figures)
    } else {
        bars_of(measure, figures)
    };
    bars(measure, &all, &file).map_err(|error| anyhow!("{}: {error}", file.display()))
}

fn bars_of(measure: Measure, figures: &Figures) -> Vec<Bar> {
    let entries = figures.entries().iter();
    let entries = entries.filter(|entry| entry.measure == measure);
    entries
        .filter_map(|entry| {
            let systems = System::GROUPS.iter();
            let system = systems
                .flat_map(|(group, systems)| systems.iter().map(move |system| (group, system)))
                .find(|(_, system)| system.key() == entry.subject);
            Some(Bar {
                label: system.map_or(entry.subject.clone(), |(group, system)| {
                    format!("{group}: {}", system.title())
                }),
                spread: Spread::of(&entry.values)?,
                color: if entry.subject.contains("oxlan") {
                    OURS
                } else {
                    OTHERS
                },
            })
        })
        .collect()
}

/// Bars of the branches: those that forward stand out.
fn bars_of_programs(figures: &Figures) -> Vec<Bar> {
    let bar = |branch: String| {
        let times = SIZES.map(|size| figures.median(Measure::ProgramTime, &subject(&branch, size)));
        let times: Vec<f64> = times.into_iter().flatten().collect();
        Some(Bar {
            spread: Spread {
                median: *times.last()?,
                ..Spread::of(&times)?
            },
            color: if forwards(&branch) { OURS } else { OTHERS },
            label: branch,
        })
    };
    branches(figures).into_iter().filter_map(bar).collect()
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn bars(measure: Measure, bars: &[Bar], file: &Path) -> Drawn {
    let about = measure.about();
    let count = bars.len();
    let height = FRAME + ROW * u32::try_from(count)?;
    let area = SVGBackend::new(file, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let most = bars.iter().map(|bar| bar.spread.max).fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(&area)
        .caption(
            format!("{}, {}", about.title, about.unit),
            ("sans-serif", 15),
        )
        .margin_right(20)
        .set_label_area_size(LabelAreaPosition::Left, LABELS)
        .set_label_area_size(LabelAreaPosition::Bottom, 30)
        .build_cartesian_2d(0.0..most.max(f64::MIN_POSITIVE) * 1.15, 0.0..count as f64)?;
    // The first bar is on top. Positions are middles of rows, so each has one label.
    let label = |y: &f64| {
        let from_top = count as f64 - y - 0.5;
        let exact = (from_top - from_top.round()).abs() < 1e-6;
        bars.iter()
            .enumerate()
            .find(|(at, _)| exact && (*at as f64 - from_top).abs() < 1e-6)
            .map_or(String::new(), |(_, bar)| bar.label.clone())
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(2 * count + 1)
        .y_label_formatter(&label)
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (at, bar) in bars.iter().enumerate() {
        let middle = count as f64 - at as f64 - 0.5;
        let Spread {
            median, min, max, ..
        } = bar.spread;
        let corners = [(0.0, middle - 0.3), (median, middle + 0.3)];
        let range = [(min, middle), (max, middle)];
        let text = format!(" {}", measure.shown(median));
        chart.draw_series([Rectangle::new(corners, bar.color.filled())])?;
        chart.draw_series([PathElement::new(range, BLACK)])?;
        chart.draw_series([Text::new(text, (max, middle + 0.2), ("sans-serif", 12))])?;
    }
    area.present()?;
    Ok(())
}
