//! Plots as SVG: bars of medians with their range, and lines over sizes for programs.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::super::figures::{Figures, Measure, Spread};
use super::super::programs::{SIZES, subject};
use super::super::systems::System;
use super::tables::branches;

const WIDTH: u32 = 760;
/// Height of a bar with its gap, and of what is above and below all bars, pixels.
const ROW: u32 = 28;
const FRAME: u32 = 80;
const LABELS: u32 = 290;

/// One bar.
struct Bar {
    label: String,
    spread: Spread,
    color: RGBColor,
}

/// Plots one measure into `directory`, named after its key.
pub(super) fn write(measure: Measure, figures: &Figures, directory: &Path) -> Result<()> {
    let file = directory.join(format!("{}.svg", measure.about().key));
    let drawn = if measure == Measure::ProgramTime {
        lines(figures, &file)
    } else {
        bars(measure, &bars_of(measure, figures), &file)
    };
    drawn.map_err(|error| anyhow!("{}: {error}", file.display()))
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
                    RGBColor(0xc4, 0x4e, 0x1c)
                } else {
                    RGBColor(0x8a, 0x9b, 0xa8)
                },
            })
        })
        .collect()
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

/// Time of each branch over the number of pods.
fn lines(figures: &Figures, file: &Path) -> Drawn {
    let about = Measure::ProgramTime.about();
    let area = SVGBackend::new(file, (WIDTH, 420)).into_drawing_area();
    area.fill(&WHITE)?;
    let branches: Vec<(String, Vec<(f64, f64)>)> = branches(figures)
        .into_iter()
        .map(|branch| {
            let points = SIZES.into_iter().filter_map(|size| {
                let time = figures.median(Measure::ProgramTime, &subject(&branch, size))?;
                Some((f64::from(size.pods), time))
            });
            let points = points.collect();
            (branch, points)
        })
        .collect();
    let points = branches.iter().flat_map(|(_, points)| points);
    let most = points.map(|(_, time)| *time).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(&area)
        .caption(
            format!("{}, {}", about.title, about.unit),
            ("sans-serif", 15),
        )
        .margin(15)
        .set_label_area_size(LabelAreaPosition::Left, 50)
        .set_label_area_size(LabelAreaPosition::Bottom, 40)
        .build_cartesian_2d((5.0..200_000.0_f64).log_scale(), 0.0..most * 1.9)?;
    chart
        .configure_mesh()
        .x_desc("pods of the node")
        .y_desc(about.unit)
        .x_label_formatter(&|pods| format!("{pods:.0}"))
        .draw()?;
    for (at, (branch, points)) in branches.iter().enumerate() {
        let color = Palette99::pick(at).to_rgba();
        chart
            .draw_series(LineSeries::new(points.clone(), color.stroke_width(2)).point_size(3))?
            .label(branch.clone())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 15, y)], color));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
    area.present()?;
    Ok(())
}
