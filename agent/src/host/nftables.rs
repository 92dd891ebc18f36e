//! The table `inet oxlan`: masquerade for what pods send out of the cluster, with Flannel's exceptions.
//!
//! The table is replaced in one transaction, so no packet ever meets half of it.

use std::collections::HashSet;

use ipnet::IpNet;
use nftables::batch::Batch;
use nftables::expr::{
    BinaryOperation, Expression, Meta, MetaKey, NamedExpression, Payload, PayloadField, Prefix,
};
use nftables::helper::{self, NftablesError};
use nftables::schema::{Chain, NfListObject, Nftables, Rule, Table};
use nftables::stmt::{Match, NAT, NATFlag, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

/// Name of the table.
pub const TABLE: &str = "oxlan";
const CHAIN: &str = "postrouting";

/// kube-proxy's mark for what it masquerades itself.
const KUBE_PROXY_MARK: u32 = 0x4000;

/// Priority `srcnat` (include/uapi/linux/netfilter_ipv4.h, `NF_IP_PRI_NAT_SRC`).
const SRCNAT: i32 = 100;

/// Why the table cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program `nft` failed.
    #[error("cannot {action} the nftables table inet {table}: {}", reason(.source))]
    Nft {
        /// What was tried.
        action: &'static str,
        /// Name of the table.
        table: &'static str,
        /// What the program said.
        source: Box<NftablesError>,
    },
    /// Its answer is not what it documents.
    #[error("cannot read the answer of `nft -j list table inet`")]
    Answer(#[source] serde_json::Error),
}

/// The table as the kernel has it, in a form that can be compared with a later one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing(Vec<serde_json::Value>);

/// Replaces the table by the rules for pods of these prefixes, whose traffic to `except` keeps its source.
///
/// # Errors
/// When `nft` is missing or the kernel refuses.
pub fn replace(pod_cidrs: &[IpNet], except: &[IpNet]) -> Result<(), NftError> {
    helper::apply_ruleset(&ruleset(pod_cidrs, except)).map_err(failed("write", TABLE))
}

/// A table now; none when there is no such table.
///
/// # Errors
/// When `nft` is missing or its answer cannot be read.
pub fn list(table: &'static str) -> Result<Option<Listing>, NftError> {
    let arguments = ["list", "table", "inet", table];
    match helper::get_current_ruleset_raw(helper::DEFAULT_NFT, arguments) {
        Ok(text) => listing(&text).map(Some),
        Err(error) if is_missing(&error) => Ok(None),
        Err(source) => Err(failed("list", table)(source)),
    }
}

/// Writes a table by `write`, which returns its listing, and says which listing is right from now on.
///
/// Somebody may change the table between the writing and the listing, which must not pass for right. So a
/// listing that differs from the one `known` for the same rules counts only if it comes a second time.
///
/// # Errors
/// Those of `write`.
pub fn settle<L: Clone + PartialEq>(
    known: Option<&L>,
    mut write: impl FnMut() -> Result<L, NftError>,
) -> Result<L, NftError> {
    let listing = write()?;
    match known {
        Some(known) if *known != listing && write()? != listing => Ok(known.clone()),
        _ => Ok(listing),
    }
}

/// Removes a table; that it is gone is success. Says whether there was one.
///
/// # Errors
/// When `nft` is missing or the kernel refuses.
pub fn remove(table: &'static str) -> Result<bool, NftError> {
    if list(table)?.is_none() {
        return Ok(false);
    }
    let mut batch = Batch::new();
    batch.delete(NfListObject::Table(named(table)));
    let done = helper::apply_ruleset(&batch.to_nftables());
    done.map(|()| true).map_err(failed("remove", table))
}

/// Says what was tried on which table.
pub(super) fn failed(
    action: &'static str,
    table: &'static str,
) -> impl FnOnce(NftablesError) -> NftError {
    move |source| NftError::Nft {
        action,
        table,
        source: Box::new(source),
    }
}

/// Adding first makes deleting succeed when there is none; all three are one transaction.
fn ruleset(pod_cidrs: &[IpNet], except: &[IpNet]) -> Nftables<'static> {
    let mut batch = Batch::new();
    batch.add(NfListObject::Table(named(TABLE)));
    batch.delete(NfListObject::Table(named(TABLE)));
    batch.add(NfListObject::Table(named(TABLE)));
    batch.add(NfListObject::Chain(Chain {
        family: NfFamily::INet,
        table: TABLE.into(),
        name: CHAIN.into(),
        _type: Some(NfChainType::NAT),
        hook: Some(NfHook::Postrouting),
        prio: Some(SRCNAT),
        policy: Some(NfChainPolicy::Accept),
        ..Chain::default()
    }));
    for rule in rules(pod_cidrs, except) {
        batch.add(NfListObject::Rule(rule));
    }
    batch.to_nftables()
}

fn rules(pod_cidrs: &[IpNet], except: &[IpNet]) -> Vec<Rule<'static>> {
    let mut rules = vec![rule(
        "kube-proxy masquerades what it has marked",
        vec![marked(KUBE_PROXY_MARK), Statement::Return(None)],
    )];
    for pods in pod_cidrs {
        rules.push(rule(
            "pods see each other's own addresses",
            vec![from(pods), to(pods, Operator::EQ), Statement::Return(None)],
        ));
        let family = |e: &&IpNet| e.addr().is_ipv4() == pods.addr().is_ipv4();
        rules.extend(except.iter().filter(family).map(|to_them| {
            rule(
                "this destination sees pods' own addresses, by --no-masquerade-to",
                vec![
                    from(pods),
                    to(to_them, Operator::EQ),
                    Statement::Return(None),
                ],
            )
        }));
        rules.push(rule(
            "what pods send out of the cluster comes from the node; multicast stays as it is",
            vec![
                from(pods),
                to(&multicast(pods), Operator::NEQ),
                masquerade(),
            ],
        ));
    }
    rules
}

fn named(name: &'static str) -> Table<'static> {
    Table {
        family: NfFamily::INet,
        name: name.into(),
        handle: None,
    }
}

fn rule(comment: &'static str, statements: Vec<Statement<'static>>) -> Rule<'static> {
    Rule {
        family: NfFamily::INet,
        table: TABLE.into(),
        chain: CHAIN.into(),
        expr: statements.into(),
        comment: Some(comment.into()),
        ..Rule::default()
    }
}

fn marked(mark: u32) -> Statement<'static> {
    let meta = Expression::Named(NamedExpression::Meta(Meta { key: MetaKey::Mark }));
    let masked = BinaryOperation::AND(meta, Expression::Number(mark));
    Statement::Match(Match {
        left: Expression::BinaryOperation(Box::new(masked)),
        right: Expression::Number(mark),
        op: Operator::EQ,
    })
}

fn from(prefix: &IpNet) -> Statement<'static> {
    compare(prefix, "saddr", Operator::EQ)
}

fn to(prefix: &IpNet, op: Operator) -> Statement<'static> {
    compare(prefix, "daddr", op)
}

fn compare(prefix: &IpNet, field: &'static str, op: Operator) -> Statement<'static> {
    let protocol = match prefix {
        IpNet::V4(_) => "ip",
        IpNet::V6(_) => "ip6",
    };
    let payload = PayloadField {
        protocol: protocol.into(),
        field: field.into(),
    };
    let value = Prefix {
        addr: Box::new(Expression::String(prefix.network().to_string().into())),
        len: prefix.prefix_len().into(),
    };
    Statement::Match(Match {
        left: Expression::Named(NamedExpression::Payload(Payload::PayloadField(payload))),
        right: Expression::Named(NamedExpression::Prefix(value)),
        op,
    })
}

/// Fully random source ports: two pods that leave at the same moment must not collide in conntrack.
fn masquerade() -> Statement<'static> {
    Statement::Masquerade(Some(NAT {
        addr: None,
        family: None,
        port: None,
        flags: Some(HashSet::from([NATFlag::FullyRandom])),
    }))
}

fn multicast(like: &IpNet) -> IpNet {
    match like {
        IpNet::V4(_) => IpNet::V4(ipnet::Ipv4Net::new_assert([224, 0, 0, 0].into(), 4)),
        IpNet::V6(_) => IpNet::V6(ipnet::Ipv6Net::new_assert(
            [0xff00, 0, 0, 0, 0, 0, 0, 0].into(),
            8,
        )),
    }
}

/// Everything but what differs from one identical table to the next: handles, versions.
fn listing(text: &str) -> Result<Listing, NftError> {
    let mut value: serde_json::Value = serde_json::from_str(text).map_err(NftError::Answer)?;
    let objects = value.get_mut("nftables").and_then(|v| v.as_array_mut());
    let mut objects = objects.map(std::mem::take).unwrap_or_default();
    objects.retain(|object| object.get("metainfo").is_none());
    for object in &mut objects {
        for inner in object
            .as_object_mut()
            .into_iter()
            .flat_map(|o| o.values_mut())
        {
            if let Some(fields) = inner.as_object_mut() {
                fields.remove("handle");
            }
        }
    }
    Ok(Listing(objects))
}

fn is_missing(error: &NftablesError) -> bool {
    matches!(error, NftablesError::NftFailed { stderr, .. } if stderr.contains("No such file or directory"))
}

/// What `nft` wrote to its standard error is the reason; the rest is in the error's own text.
fn reason(error: &NftablesError) -> String {
    match error {
        NftablesError::NftFailed { stderr, .. } => {
            stderr.lines().next().unwrap_or_default().to_owned()
        }
        NftablesError::NftExecution { .. } => "is nftables installed?".to_owned(),
        NftablesError::NftOutputEncoding { .. } | NftablesError::NftInvalidJson(_) => {
            "does this version of nft speak JSON?".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_are_flannels() {
        let cidrs = [
            "10.244.0.0/16".parse().unwrap(),
            "fd00::/48".parse().unwrap(),
        ];
        let except = ["192.0.2.0/24".parse().unwrap()];
        let text = serde_json::to_string(&ruleset(&cidrs, &except)).unwrap();
        for piece in [
            r#"{"match":{"left":{"&":[{"meta":{"key":"mark"}},16384]},"right":16384,"op":"=="}}"#,
            r#"{"masquerade":{"flags":["fully-random"]}}"#,
            r#"{"prefix":{"addr":"224.0.0.0","len":4}},"op":"!=""#,
            r#"{"prefix":{"addr":"ff00::","len":8}},"op":"!=""#,
            r#"{"payload":{"protocol":"ip6","field":"saddr"}}"#,
            r#"{"prefix":{"addr":"192.0.2.0","len":24}},"op":"=="}},{"return":null}"#,
        ] {
            assert!(text.contains(piece), "{piece} is not in {text}");
        }
        assert_eq!(rules(&cidrs, &[]).len(), 5);
        assert_eq!(rules(&cidrs, &except).len(), 6);
    }

    #[test]
    fn a_change_between_writing_and_listing_does_not_pass_for_right() {
        let settled = |known: Option<&u8>, listings: &[u8]| {
            let mut left = listings.iter().copied();
            let right = settle(known, || Ok(left.next().unwrap())).unwrap();
            assert_eq!(left.next(), None, "{listings:?}");
            right
        };
        assert_eq!(settled(None, &[1]), 1);
        assert_eq!(settled(Some(&1), &[1]), 1);
        // Somebody was in between; the kernel lists the same rules in another way now.
        assert_eq!(settled(Some(&1), &[2, 1]), 1);
        assert_eq!(settled(Some(&1), &[2, 2]), 2);
    }

    #[test]
    fn a_listing_forgets_handles_only() {
        let one = r#"{"nftables":[{"metainfo":{"version":"1"}},{"rule":{"handle":3,"expr":[1]}}]}"#;
        let two = r#"{"nftables":[{"metainfo":{"version":"2"}},{"rule":{"handle":9,"expr":[1]}}]}"#;
        let other = r#"{"nftables":[{"rule":{"handle":9,"expr":[2]}}]}"#;
        assert_eq!(listing(one).unwrap(), listing(two).unwrap());
        assert_ne!(listing(one).unwrap(), listing(other).unwrap());
    }
}
