//! Markers: the colour and the shape that stand for a network.

/// Colours of `report.css`, `--network-0` and on.
const COLOURS: usize = 8;

/// The library's name of each shape, and the shape as SVG.
const SHAPES: [(&str, &str); 7] = [
    ("circle", "<circle cx=8 cy=8 r=5.5 />"),
    ("rect", "<rect x=3 y=3 width=10 height=10 />"),
    ("triangle", "<path d=\"M8 2 14.5 13.5H1.5Z\"/>"),
    ("rectRot", "<path d=\"M8 1 15 8 8 15 1 8Z\"/>"),
    ("crossRot", "<path class=stroke d=\"M3.5 3.5 12.5 12.5M12.5 3.5 3.5 12.5\"/>"),
    ("cross", "<path class=stroke d=\"M8 2V14M2 8H14\"/>"),
    ("star", "<path class=stroke d=\"M8 2V14M2.8 5 13.2 11M13.2 5 2.8 11\"/>"),
];

/// The marker of a network as inline SVG.
pub fn marker(network: usize) -> String {
    let (colour, shape) = (network % COLOURS, network % SHAPES.len());
    format!(
        "<svg class=marker style=\"color:var(--network-{colour})\" aria-hidden=true><use href=\"#shape-{shape}\"/></svg>"
    )
}

/// The shapes that markers use, once for the page.
pub fn symbols() -> String {
    let symbol = |(at, (_, path)): (usize, &(&str, &str))| {
        format!("<symbol id=shape-{at} viewBox=\"0 0 16 16\">{path}</symbol>")
    };
    let symbols: String = SHAPES.iter().enumerate().map(symbol).collect();
    format!("<svg class=symbols aria-hidden=true>{symbols}</svg>\n")
}

/// For the script: the name, the colour and the shape of a network.
pub fn look(network: usize, name: &str) -> serde_json::Value {
    let symbol = network % SHAPES.len();
    let (shape, _) = SHAPES[symbol];
    serde_json::json!({"name": name, "colour": network % COLOURS, "shape": shape, "symbol": symbol})
}
