//! Plots cost and latency over load.

use crate::fanout::Pair;
use plotters::prelude::*;
use std::path::Path;

type Line<'a> = (&'a str, RGBColor, Vec<(f64, f64)>);

/// Writes an SVG of the loads on a room of this size.
pub fn draw(file: &Path, members: usize, pairs: &[Pair]) -> Result<(), Box<dyn std::error::Error>> {
    let pairs: Vec<&Pair> = pairs.iter().filter(|pair| pair.members == members).collect();
    let over = |value: &dyn Fn(&Pair) -> f64| -> Vec<(f64, f64)> {
        pairs.iter().map(|pair| (members as f64 * pair.rate, value(pair))).collect()
    };
    let root = SVGBackend::new(file, (900, 380)).into_drawing_area();
    root.fill(&WHITE)?;
    let halves = root.split_evenly((1, 2));
    let (node, floor) = (RGBColor(20, 90, 160), RGBColor(150, 150, 150));
    let costs =
        [("node", node, over(&|pair| pair.node.each)), ("floor", floor, over(&|pair| pair.floor.each))];
    let latencies = [
        ("node, p99", RGBColor(200, 80, 40), over(&|pair| pair.node.p99)),
        ("node, p50", node, over(&|pair| pair.node.p50)),
        ("floor, p99", RGBColor(220, 180, 160), over(&|pair| pair.floor.p99)),
        ("floor, p50", floor, over(&|pair| pair.floor.p50)),
    ];
    use SeriesLabelPosition::{UpperLeft, UpperRight};
    chart(&halves[0], "processor time, µs a delivery", UpperRight, &costs)?;
    chart(&halves[1], "from due to received, ms", UpperLeft, &latencies)?;
    root.present()?;
    Ok(())
}

fn chart(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    title: &str,
    names: SeriesLabelPosition,
    lines: &[Line<'_>],
) -> Result<(), Box<dyn std::error::Error>> {
    let points = || lines.iter().flat_map(|(_, _, points)| points);
    let right = points().map(|(x, _)| *x).fold(0.0, f64::max);
    let left = points().map(|(x, _)| *x).fold(right, f64::min);
    let top = points().map(|(_, y)| *y).fold(0.0, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(40)
        .build_cartesian_2d((left..right).log_scale(), 0.0..top)?;
    let thousands = |x: &f64| format!("{:.0}k", x / 1e3);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("deliveries a second, one room")
        .x_label_formatter(&thousands)
        .draw()?;
    for (name, colour, points) in lines {
        let colour = *colour;
        chart
            .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)).point_size(3))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    chart.configure_series_labels().position(names).draw()?;
    Ok(())
}
