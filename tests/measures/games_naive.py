"""Games solved the slow obvious way: every order in which the players may join."""

from __future__ import annotations

import itertools
import math


def subsets(names):
    return [frozenset(c) for k in range(len(names) + 1) for c in itertools.combinations(names, k)]


def shapley(players, V):
    """Average over all orders of what each player adds; ``V`` takes a frozenset of players."""
    out = dict.fromkeys(players, 0.0)
    orders = list(itertools.permutations(players))
    for order in orders:
        there = frozenset()
        for player in order:
            out[player] += (V(there | {player}) - V(there)) / len(orders)
            there |= {player}
    return out


def cooperation(players, V, A):
    """C_A by playing the merged game and the games without the rest of A."""
    outside = [p for p in players if p not in A]

    def merged(S):
        return V(frozenset(p for p in S if p != "merged") | (frozenset(A) if "merged" in S else frozenset()))

    value = shapley([*outside, "merged"], merged)["merged"]
    return value - sum(shapley([*outside, i], V)[i] for i in A)


def interaction(players, V, i, j):
    """Half of the pair's Shapley interaction index, from its definition."""
    M, total = len(players), 0.0
    for S in subsets([p for p in players if p not in (i, j)]):
        weight = math.factorial(len(S)) * math.factorial(M - len(S) - 2) / (2 * math.factorial(M - 1))
        total += weight * (V(S | {i, j}) - V(S | {i}) - V(S | {j}) + V(S))
    return total
