//! The recipes of `recipes/`, embedded.

macro_rules! recipes {
    ($($name:literal),* $(,)?) => {
        /// Names and texts, in the order of `rewire list recipes`.
        pub const RECIPES: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../recipes/", $name, ".toml")))),*];
    };
}

recipes![
    "fashion-mnist-mini-dense",
    "fashion-mnist-mini-dnr-irregular",
    "fashion-mnist-mini-dnr-channel",
    "demo-dense",
    "demo-irregular",
    "demo-channel",
];

/// The text of the embedded recipe of that name.
pub fn find(name: &str) -> Option<&'static str> {
    RECIPES.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// What a recipe is for: the comment lines it starts with.
pub fn summary(text: &str) -> String {
    let comments = text.lines().map_while(|line| line.strip_prefix('#'));
    comments.map(str::trim).collect::<Vec<_>>().join(" ")
}
