#!/bin/bash
# A manual page for every command, with all of its options and no complaint of the formatter; completion that knows
# every command and option.
. "$(dirname "$0")/common.sh" "$@"
gleaner=$prefix/bin/gleaner
pages=$prefix/share/man/man1
commands=$("$gleaner" help | sed -n '/^commands:/,/^$/s/^  \([a-z]* [a-z-]*\|[a-z]*\) .*/\1/p' | sed 's/ *$//' | grep -v '^help')
[ "$(echo "$commands" | wc -l)" -ge 10 ] || fail "only these commands were found: $commands"

options_of() { "$gleaner" $1 --help | sed -n '/^options:/,/^$/s/^  \(--[a-z-]*\).*/\1/p'; }
complete_words() { # WORD...: what is offered for the last one
    bash -c '. "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _gleaner; printf "%s\n" "${COMPREPLY[@]}"' \
        - "$prefix/share/bash-completion/completions/gleaner" "$@"
}

while read -r command; do
    page=$pages/gleaner-${command// /-}.1
    [ -s "$page" ] || {
        fail "no page for gleaner $command"
        continue
    }
    grep -qF "fB${command//-/\\-}" "$pages/gleaner.1" || fail "gleaner.1 does not list $command"
    complete_words gleaner "${command%% *}" | grep -qx "${command%% *}" || fail "completion does not know $command"
    complete_words gleaner $command -- >"$work/offered"
    for option in $(options_of "$command"); do
        grep -qF -- "\\fB${option//-/\\-}\\fR" "$page" || fail "gleaner-${command// /-}.1 lacks $option"
        grep -qxF -- "$option" "$work/offered" || fail "completion of $command lacks $option"
    done
done <<<"$commands"
[ "$(find "$pages" -name '*.1' | wc -l)" -eq $(($(echo "$commands" | wc -l) + 1)) ] || fail "more pages than commands"
complete_words gleaner bench l | tr '\n' ' ' | grep -q 'layer links' || fail "completion of bench l"
complete_words gleaner train x.yaml --set router.k | grep -qx 'router.k=' || fail "completion of --set router.k"
"$gleaner" train --help | sed -n 's/^\([a-z]*\.[a-z_]*\): .*/\1/p' >"$work/keys"
while read -r key; do
    grep -qF "fB$key" "$pages/gleaner-train.1" || fail "gleaner-train.1 lacks $key"
done <"$work/keys"

if command -v groff >/dev/null; then
    for page in "$pages"/*.1; do
        groff -ww -man -Tutf8 "$page" >/dev/null 2>"$work/complaints"
        [ -s "$work/complaints" ] && fail "$(basename "$page"): $(head -n 2 "$work/complaints")"
    done
fi
finish
