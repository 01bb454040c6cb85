//! The recipes that ship with the project: each loads, and those of the two papers
//! show every key there is.
#![allow(clippy::unwrap_used)]

use quarry_recipe::Recipe;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn recipes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes")
}

fn keys(prefix: &str, table: &toml::Table, found: &mut BTreeSet<String>) {
    for (key, value) in table {
        let path = format!("{prefix}{key}");
        match value {
            toml::Value::Table(inner) => keys(&format!("{path}."), inner, found),
            _ => {
                found.insert(path);
            }
        }
    }
}

#[test]
fn every_shipped_recipe_is_possible() {
    let mut count = 0;
    for item in std::fs::read_dir(recipes()).unwrap() {
        let path = item.unwrap().path();
        let recipe = Recipe::load(&path, &[]).unwrap();
        assert_eq!(recipe.name, path.file_stem().unwrap().to_str().unwrap());
        count += 1;
    }
    assert!(count >= 3, "{count} recipes");
}

#[test]
fn the_recipes_of_the_papers_show_every_key() {
    let mut known = BTreeSet::new();
    let default = toml::Table::try_from(Recipe::default()).unwrap();
    keys("", &default, &mut known);
    for name in ["ance.toml", "dpr.toml"] {
        let text = std::fs::read_to_string(recipes().join(name)).unwrap();
        let mut shown = BTreeSet::new();
        keys("", &text.parse().unwrap(), &mut shown);
        let hidden: Vec<_> = known.difference(&shown).collect();
        assert!(hidden.is_empty(), "not in recipes/{name}: {hidden:?}");
    }
}
