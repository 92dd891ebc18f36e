//! The table `inet oxlan`: what leaves the cluster, and what comes into it from elsewhere, gets an address
//! that the other side can answer to. Flannel's rules and exceptions.
//!
//! The table is replaced in one transaction, so no packet ever meets half of it.

use std::collections::HashSet;

use ipnet::IpNet;
use nftables::batch::Batch;
use nftables::expr::{
    BinaryOperation, Expression, Fib, FibFlag, FibResult, Meta, MetaKey, NamedExpression, Payload,
    PayloadField, Prefix,
};
use nftables::helper;
use nftables::schema::{Chain, NfListObject, Nftables, Rule};
use nftables::stmt::{Match, NAT, NATFlag, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use super::nftables::{NftError, failed, named};

/// Name of the table.
pub const TABLE: &str = "oxlan";
const CHAIN: &str = "postrouting";

/// kube-proxy's mark for what it masquerades itself.
const KUBE_PROXY_MARK: u32 = 0x4000;

/// Priority `srcnat` (include/uapi/linux/netfilter_ipv4.h, `NF_IP_PRI_NAT_SRC`).
const SRCNAT: i32 = 100;

/// What the rules are made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Masquerade {
    /// The cluster's pod CIDRs.
    pub cluster: Vec<IpNet>,
    /// Those of this node.
    pub own: Vec<IpNet>,
    /// Destinations outside the cluster that see pods' own addresses.
    pub except: Vec<IpNet>,
    /// Name of the overlay device.
    pub overlay: &'static str,
}

impl Masquerade {
    /// Replaces the table by these rules.
    ///
    /// # Errors
    /// When `nft` is missing or the kernel refuses.
    pub fn write(&self) -> Result<(), NftError> {
        helper::apply_ruleset(&self.ruleset()).map_err(failed("write", TABLE))
    }

    /// Adding first makes deleting succeed when there is none; all three are one transaction.
    fn ruleset(&self) -> Nftables<'static> {
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
        for rule in self.rules() {
            batch.add(NfListObject::Rule(rule));
        }
        batch.to_nftables()
    }

    fn rules(&self) -> Vec<Rule<'static>> {
        let mut rules = vec![rule(
            "kube-proxy masquerades what it has marked",
            vec![marked(KUBE_PROXY_MARK), Statement::Return(None)],
        )];
        for pods in &self.cluster {
            rules.push(rule(
                "pods see each other's own addresses",
                vec![
                    from(pods, Operator::EQ),
                    to(pods, Operator::EQ),
                    Statement::Return(None),
                ],
            ));
            rules.extend(self.out_of(pods));
            rules.extend(self.into(pods));
        }
        rules
    }

    /// What pods send to the world.
    fn out_of(&self, pods: &IpNet) -> Vec<Rule<'static>> {
        let mut rules: Vec<_> = of_family(&self.except, pods)
            .map(|to_them| {
                rule(
                    "this destination sees pods' own addresses, by --no-masquerade-to",
                    vec![
                        from(pods, Operator::EQ),
                        to(to_them, Operator::EQ),
                        Statement::Return(None),
                    ],
                )
            })
            .collect();
        rules.push(rule(
            "what pods send out of the cluster comes from the node; multicast stays as it is",
            vec![
                from(pods, Operator::EQ),
                to(&multicast(pods), Operator::NEQ),
                masquerade(),
            ],
        ));
        rules
    }

    /// What others send to pods of other nodes by way of this one. Pods of this node see who it was.
    ///
    /// In the overlay each node sends from addresses of its own pods only, and whoever answers, answers there.
    /// Without encapsulation the answers would find another way back than through this node, where connection
    /// tracking waits for them. Only the host's own addresses need nothing then: every node knows the way there.
    fn into(&self, pods: &IpNet) -> [Rule<'static>; 2] {
        let inbound = [from(pods, Operator::NEQ), to(pods, Operator::EQ)];
        let mut routed = inbound.to_vec();
        routed.extend(of_family(&self.own, pods).map(|own| to(own, Operator::NEQ)));
        routed.extend([from_elsewhere(), masquerade()]);
        let mut overlay = inbound.to_vec();
        overlay.extend([leaves_by(self.overlay), masquerade()]);
        [
            rule(
                "what enters the overlay here comes from the node's address in it",
                overlay,
            ),
            rule(
                "what is routed to pods of other nodes as it is comes from the node",
                routed,
            ),
        ]
    }
}

/// Those of the same family as another prefix.
fn of_family<'a>(prefixes: &'a [IpNet], like: &IpNet) -> impl Iterator<Item = &'a IpNet> {
    let v4 = like.addr().is_ipv4();
    prefixes.iter().filter(move |p| p.addr().is_ipv4() == v4)
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

fn leaves_by(device: &'static str) -> Statement<'static> {
    let key = MetaKey::Oifname;
    Statement::Match(Match {
        left: Expression::Named(NamedExpression::Meta(Meta { key })),
        right: Expression::String(device.into()),
        op: Operator::EQ,
    })
}

/// The source is none of the host's own addresses.
fn from_elsewhere() -> Statement<'static> {
    let kind = Fib {
        result: FibResult::Type,
        flags: HashSet::from([FibFlag::Saddr]),
    };
    Statement::Match(Match {
        left: Expression::Named(NamedExpression::Fib(kind)),
        right: Expression::String("local".into()),
        op: Operator::NEQ,
    })
}

fn from(prefix: &IpNet, op: Operator) -> Statement<'static> {
    compare(prefix, "saddr", op)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn masquerade_for(except: &[&str]) -> Masquerade {
        let prefixes = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect();
        Masquerade {
            cluster: prefixes(&["10.244.0.0/16", "fd00::/48"]),
            own: prefixes(&["10.244.1.0/24", "fd00:0:0:1::/64"]),
            except: prefixes(except),
            overlay: "oxlan0",
        }
    }

    #[test]
    fn the_rules_are_flannels() {
        let masquerade = masquerade_for(&["192.0.2.0/24"]);
        let text = serde_json::to_string(&masquerade.ruleset()).unwrap();
        for piece in [
            r#"{"match":{"left":{"&":[{"meta":{"key":"mark"}},16384]},"right":16384,"op":"=="}}"#,
            r#"{"masquerade":{"flags":["fully-random"]}}"#,
            r#"{"prefix":{"addr":"224.0.0.0","len":4}},"op":"!=""#,
            r#"{"prefix":{"addr":"ff00::","len":8}},"op":"!=""#,
            r#"{"payload":{"protocol":"ip6","field":"saddr"}}"#,
            r#"{"prefix":{"addr":"192.0.2.0","len":24}},"op":"=="}},{"return":null}"#,
            r#"{"match":{"left":{"meta":{"key":"oifname"}},"right":"oxlan0","op":"=="}},{"masquerade":"#,
            r#"{"match":{"left":{"fib":{"result":"type","flags":["saddr"]}},"right":"local","op":"!="}},{"masquerade":"#,
        ] {
            assert!(text.contains(piece), "{piece} is not in {text}");
        }
        assert_eq!(masquerade.rules().len(), 10);
        assert_eq!(masquerade_for(&[]).rules().len(), 9);
    }

    /// A rule that masquerades must not come before the exceptions from it.
    #[test]
    fn what_kube_proxy_has_marked_returns_first_and_own_pods_are_never_a_destination() {
        let rules = masquerade_for(&[]).rules();
        let texts: Vec<_> = rules
            .iter()
            .map(|r| serde_json::to_string(r).unwrap())
            .collect();
        assert!(texts[0].contains("16384") && texts[0].contains("return"));
        for (family, own) in [(1, "10.244.1.0"), (5, "fd00:0:0:1::")] {
            assert!(texts[family].contains("return"), "{}", texts[family]);
            let own = format!(r#""field":"daddr"}}}},"right":{{"prefix":{{"addr":"{own}","len":"#);
            let routed = &texts[family + 3];
            assert!(routed.contains(&own), "{own} is not in {routed}");
        }
    }
}
