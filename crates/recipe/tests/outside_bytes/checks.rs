//! What holds for any bytes given as a recipe; shared with the fuzz target.

use quarry_recipe::Recipe;

/// `bytes` are the text of a recipe and, each after a zero byte, `--set` overrides.
/// They are refused in one line, or give a recipe that survives being written.
pub fn recipe(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let mut parts = text.split('\0').map(str::to_owned);
    let toml = parts.next().unwrap_or_default();
    let overrides: Vec<String> = parts.collect();
    match Recipe::from_toml(&toml, "r.toml", &overrides) {
        Ok(recipe) => survives_writing(&recipe),
        Err(error) => {
            let message = error.to_string();
            assert!(!message.chars().any(char::is_control), "{message:?}");
        }
    }
}

fn survives_writing(recipe: &Recipe) {
    let toml = toml::to_string(recipe).expect("a recipe is a table");
    let again = Recipe::from_toml(&toml, "r.toml", &[]).expect("a written recipe reads back");
    assert_eq!(&again, recipe);
    let json = serde_json::to_string(recipe).expect("a recipe has string keys");
    let again: Recipe = serde_json::from_str(&json).expect("a written recipe reads back");
    assert_eq!(&again, recipe);
}
