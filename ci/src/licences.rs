//! Which licences a dependency may have.

use spdx::{Expression, ParseMode};

use crate::packages::{Package, Packages};

/// Licences by which what is shipped may be passed on under our own: permissive, each read. A new
/// one is a decision, not a line.
const ALLOWED: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-3-Clause",
    "CDLA-Permissive-2.0", // data: the list of root certificates
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];

/// Packages under other licences, each by itself, with what was found of it.
///
/// `option-ext` comes with `sev`, by way of `dirs`: a file of a few functions, used as it is
/// published. The Mozilla licence asks for the source of that file and reaches no further.
const EXCEPTIONS: &[(&str, &str)] = &[("option-ext", "MPL-2.0")];

/// A package whose licence is not allowed, or not known.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{package} {version}: {}", .licence.as_deref().unwrap_or("no licence named"))]
pub(crate) struct NotAllowed {
    package: String,
    version: String,
    licence: Option<String>,
}

/// Every package of other people that may not be used.
pub(crate) fn not_allowed(packages: &Packages) -> Vec<NotAllowed> {
    let others = packages.packages.values().filter(|package| package.source.is_some());
    others.filter(|package| !is_allowed(package)).map(NotAllowed::of).collect()
}

impl NotAllowed {
    fn of(package: &Package) -> Self {
        Self {
            package: package.name.clone(),
            version: package.version.clone(),
            licence: package.licence.clone(),
        }
    }
}

fn is_allowed(package: &Package) -> bool {
    package.licence.as_deref().is_some_and(|licence| {
        EXCEPTIONS.contains(&(package.name.as_str(), licence)) || expression_is_allowed(licence)
    })
}

/// Of alternatives one has to be allowed, of a sum all. Old manifests have `/` for `OR`.
fn expression_is_allowed(expression: &str) -> bool {
    let Ok(expression) = Expression::parse_mode(expression, ParseMode::LAX) else { return false };
    expression.evaluate(|requirement| ALLOWED.contains(&requirement.to_string().as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_of_what_is_shipped_has_a_licence_that_is_on_the_list() {
        assert_eq!(not_allowed(&Packages::of_shipped_programs().unwrap()), []);
    }

    #[test]
    fn of_alternatives_one_has_to_be_allowed_and_of_a_sum_all() {
        for (expression, allowed) in [
            ("MIT", true),
            ("MIT OR Apache-2.0", true),
            ("MIT/Apache-2.0", true),
            ("GPL-3.0-only OR MIT", true),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
            ("Apache-2.0  OR  MIT", true),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("MIT AND GPL-3.0-only", false),
            ("GPL-3.0-or-later", false),
            ("MPL-2.0", false),
            ("Apache-2.0 WITH Classpath-exception-2.0", false),
            ("ours", false),
            ("", false),
        ] {
            assert_eq!(expression_is_allowed(expression), allowed, "{expression}");
        }
    }
}
