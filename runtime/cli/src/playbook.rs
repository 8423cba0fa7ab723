//! Playbooks: text for a person and steps for a machine in one file.
//!
//! `docs/formats/playbook.md` describes the format. The files are in `playbooks/`, and part of this
//! program.

use std::collections::BTreeMap;

use evanesce_protocol::Digest;

/// One playbook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Playbook {
    /// Its stable name, that of its file.
    pub name: String,
    /// The whole text.
    pub text: String,
    /// Its heading.
    pub title: String,
    /// What it is for, in a paragraph.
    pub summary: String,
    /// Who does it.
    pub who: String,
    /// When.
    pub when: String,
    /// What may be set, with defaults.
    pub settings: Vec<Setting>,
    /// What is done, in order.
    pub steps: Vec<Step>,
}

/// Something that differs from place to place, handed to the commands as a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The variable.
    pub name: String,
    /// Its value where nothing else is said.
    pub default: String,
    /// What it means.
    pub meaning: String,
}

/// One step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Its heading, number included.
    pub title: String,
    /// What the host has to have: `root`, `systemd`, `device-mapper`, or programs.
    pub needs: Vec<String>,
    /// What is lost by it, if something is.
    pub destructive: Option<String>,
    /// How a person knows that it worked.
    pub worked: String,
    /// How it is undone, or why it cannot be.
    pub undo: String,
    /// What is done.
    pub commands: String,
    /// What shows that it worked, beside the commands' own success.
    pub check: Option<String>,
    /// What undoes it.
    pub undo_commands: Option<String>,
}

impl Playbook {
    /// All that this program has, by name.
    pub fn all() -> impl Iterator<Item = Self> {
        FILES.iter().map(|(name, text)| {
            Self::parse(name, text).expect("every playbook of this program is read by a test")
        })
    }

    /// The one with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|playbook| playbook.name == name)
    }

    /// SHA-256 of its text.
    pub fn digest(&self) -> Digest {
        Digest::of(self.text.as_bytes())
    }

    /// Its settings with some replaced; `Err` names one that there is not.
    pub fn settings_with<'a>(
        &self,
        replaced: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<BTreeMap<String, String>, String> {
        let mut values: BTreeMap<_, _> = self
            .settings
            .iter()
            .map(|setting| (setting.name.clone(), setting.default.clone()))
            .collect();
        for (name, value) in replaced {
            let slot = values.get_mut(name).ok_or_else(|| name.to_owned())?;
            value.clone_into(slot);
        }
        Ok(values)
    }

    /// Reads a playbook.
    ///
    /// # Errors
    ///
    /// [`ParsePlaybookError`] with the line.
    pub fn parse(name: &str, text: &str) -> Result<Self, ParsePlaybookError> {
        let mut parser = Parser::default();
        for (index, line) in text.lines().enumerate() {
            parser.line(line).map_err(|what| ParsePlaybookError {
                name: name.to_owned(),
                line: index + 1,
                what,
            })?;
        }
        let end = text.lines().count();
        parser.finish(name, text).map_err(|what| ParsePlaybookError {
            name: name.to_owned(),
            line: end,
            what,
        })
    }
}

/// A line that does not belong there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("playbook {name}, line {line}: {what}")]
pub struct ParsePlaybookError {
    name: String,
    line: usize,
    what: &'static str,
}

#[derive(Default)]
struct Parser {
    title: Option<String>,
    summary: String,
    who: String,
    when: String,
    settings: Vec<Setting>,
    steps: Vec<Step>,
    block: Option<(Block, String)>,
}

/// What a fenced block is for.
#[derive(Clone, Copy)]
enum Block {
    Commands,
    Check,
    Undo,
    /// Something to look at.
    Shown,
}

impl Parser {
    fn line(&mut self, line: &str) -> Result<(), &'static str> {
        if let Some((block, text)) = &mut self.block {
            if line != "```" {
                text.push_str(line);
                text.push('\n');
                return Ok(());
            }
            let (block, text) = (*block, std::mem::take(text));
            self.block = None;
            return self.close(block, text);
        }
        if let Some(info) = line.strip_prefix("```") {
            let block = match info {
                "sh" => Block::Commands,
                "sh check" => Block::Check,
                "sh undo" => Block::Undo,
                "" | "text" => Block::Shown,
                _ => return Err("a block is `sh`, `sh check`, `sh undo` or `text`"),
            };
            self.block = Some((block, String::new()));
        } else if let Some(title) = line.strip_prefix("## ") {
            self.steps.push(Step { title: title.to_owned(), ..Step::default() });
        } else if let Some(title) = line.strip_prefix("# ") {
            if self.title.replace(title.to_owned()).is_some() {
                return Err("there is one title");
            }
        } else if let Some(item) = line.strip_prefix("- ") {
            self.item(item)?;
        } else if self.steps.is_empty() && self.who.is_empty() && !line.is_empty() {
            self.summary.push_str(if self.summary.is_empty() { "" } else { " " });
            self.summary.push_str(line);
        }
        Ok(())
    }

    /// `- Name: text`; other lists are text.
    fn item(&mut self, item: &str) -> Result<(), &'static str> {
        let Some((name, text)) = item.split_once(": ") else { return Ok(()) };
        if let Some(setting) = name.strip_prefix("Setting ") {
            self.settings
                .push(parse_setting(setting, text).ok_or("a setting is `NAME` = `default`")?);
            return Ok(());
        }
        let Some(step) = self.steps.last_mut() else {
            match name {
                "Who" => text.clone_into(&mut self.who),
                "When" => text.clone_into(&mut self.when),
                _ => {}
            }
            return Ok(());
        };
        match name {
            "Needs" => step.needs = text.split(", ").map(str::to_owned).collect(),
            "Destructive" => step.destructive = Some(text.to_owned()),
            "Worked" => text.clone_into(&mut step.worked),
            "Undo" => text.clone_into(&mut step.undo),
            _ => {}
        }
        Ok(())
    }

    fn close(&mut self, block: Block, text: String) -> Result<(), &'static str> {
        let step = self.steps.last_mut().ok_or("a block belongs to a step")?;
        let is_second = match block {
            Block::Shown => false,
            Block::Commands => {
                let before = std::mem::replace(&mut step.commands, text);
                !before.is_empty()
            }
            Block::Check => step.check.replace(text).is_some(),
            Block::Undo => step.undo_commands.replace(text).is_some(),
        };
        match is_second {
            true => Err("a step has one block of each kind"),
            false => Ok(()),
        }
    }

    fn finish(self, name: &str, text: &str) -> Result<Playbook, &'static str> {
        let Self { title, summary, who, when, settings, steps, block } = self;
        if block.is_some() {
            return Err("the last block has no end");
        }
        if who.is_empty() || when.is_empty() || summary.is_empty() {
            return Err("a playbook says what it is for, who does it and when");
        }
        if steps.is_empty() {
            return Err("a playbook has steps");
        }
        let is_whole = |step: &Step| {
            !step.commands.is_empty() && !step.worked.is_empty() && !step.undo.is_empty()
        };
        if !steps.iter().all(is_whole) {
            return Err(
                "a step has commands, and says how to know that it worked and how to undo it",
            );
        }
        let title = title.ok_or("a playbook has a title")?;
        let (name, text) = (name.to_owned(), text.to_owned());
        Ok(Playbook { name, text, title, summary, who, when, settings, steps })
    }
}

/// `` `NAME` = `default` ``
fn parse_setting(text: &str, meaning: &str) -> Option<Setting> {
    let (name, default) = text.split_once(" = ")?;
    let unquoted = |text: &str| Some(text.strip_prefix('`')?.strip_suffix('`')?.to_owned());
    let name = unquoted(name)?;
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    let default = unquoted(default)?;
    is_name.then_some(Setting { name, default, meaning: meaning.to_owned() })
}

/// The playbooks of this program.
const FILES: &[(&str, &str)] = &[
    ("crypto-shred", include_str!("../../../playbooks/crypto-shred.md")),
    ("host-reuse", include_str!("../../../playbooks/host-reuse.md")),
    ("one-workload-per-process", include_str!("../../../playbooks/one-workload-per-process.md")),
    ("suspected-exposure", include_str!("../../../playbooks/suspected-exposure.md")),
    ("swap-and-cores", include_str!("../../../playbooks/swap-and-cores.md")),
];

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "# Small\n\nDoes little.\nBut well.\n\n- Who: the operator\n- When: often\n\
        - Setting `DIR` = `/tmp/x y`: where\n\n## 1. First\n\nText.\n\n- Needs: root, cryptsetup\n\
        - Destructive: the disk\n- Worked: it says so\n- Undo: not at all\n\n```sh\necho one\n\n# two\n\
        ```\n\n```sh check\ntrue\n```\n\n```sh undo\nfalse\n```\n";

    #[test]
    fn a_playbook_is_read_with_all_its_parts() {
        let playbook = Playbook::parse("small", SMALL).unwrap();

        assert_eq!(
            (playbook.title.as_str(), playbook.summary.as_str()),
            ("Small", "Does little. But well.")
        );
        assert_eq!(playbook.settings[0].default, "/tmp/x y");
        let step = &playbook.steps[0];
        assert_eq!(step.needs, ["root", "cryptsetup"]);
        assert_eq!(step.commands, "echo one\n\n# two\n");
        assert_eq!(
            (step.check.as_deref(), step.undo_commands.as_deref()),
            (Some("true\n"), Some("false\n"))
        );
        assert_eq!(step.destructive.as_deref(), Some("the disk"));
    }

    #[test]
    fn a_playbook_that_lacks_a_part_is_refused_with_its_line() {
        for (from, to) in [
            ("# Small\n", ""),
            ("- Who: the operator\n", ""),
            ("- Worked: it says so\n", ""),
            ("- Undo: not at all\n", ""),
            ("```sh\n", "```bash\n"),
            ("```sh check", "```sh"),
            ("`DIR`", "`dir`"),
            ("false\n```\n", "false\n"),
        ] {
            let broken = SMALL.replacen(from, to, 1);
            assert_ne!(broken, SMALL, "{from:?} is not there");
            let error = Playbook::parse("small", &broken).unwrap_err();
            assert!(error.to_string().starts_with("playbook small, line "), "{error}");
        }
    }

    #[test]
    fn every_playbook_of_this_program_is_whole_and_sorted_by_name() {
        let names: Vec<_> = Playbook::all().map(|playbook| playbook.name).collect();

        assert!(names.is_sorted(), "{names:?}");
        assert_eq!(names.len(), FILES.len());
    }

    /// The steps of a person are numbered, and so are those of the machine.
    #[test]
    fn the_steps_of_every_playbook_are_numbered() {
        for playbook in Playbook::all() {
            for (index, step) in playbook.steps.iter().enumerate() {
                let number = format!("{}. ", index + 1);
                assert!(step.title.starts_with(&number), "{}: {}", playbook.name, step.title);
            }
        }
    }

    #[test]
    fn a_setting_that_there_is_not_is_named() {
        let playbook = Playbook::parse("small", SMALL).unwrap();

        assert_eq!(playbook.settings_with([("DIR", "/a")]).unwrap()["DIR"], "/a");
        assert_eq!(playbook.settings_with([("DRI", "/a")]), Err("DRI".to_owned()));
    }
}
