#!/bin/bash
# Prepares the text of the quickstart out of the Debian packages bible-kjv and bible-kjv-text: one verse a line,
# without its number, an empty line between chapters. Every 20th chapter is for validation, so that both files hold every kind of
# book and no chapter is in both.
#
# usage: bash launcher/text.sh FOLDER      writes FOLDER/train.txt and FOLDER/valid.txt unless they are there
set -euo pipefail
folder=$1
PATH=$PATH:/usr/games
[ -s "$folder/train.txt" ] && [ -s "$folder/valid.txt" ] && exit 0

fail() {
    echo "gleaner: error: $1" >&2
    exit 1
}
command -v bible >/dev/null || fail "the command bible is not here; install bible-kjv and bible-kjv-text"

echo "preparing the text ($folder)"
mkdir -p "$folder"
aside=$(mktemp -d "$folder/.partial-XXXXXX")
trap 'rm -rf "$aside"' EXIT

# The command greets, prompts and echoes; verses asked for come after the first prompt.
printf 'gen1:1-rev22:21\n' | bible -f |
    sed -n '1,/^bible(KJV)/d; s/^\([1-3]\{0,1\}[A-Za-z]\{1,\}[0-9]\{1,\}\):[0-9]\{1,\} \(.*\)$/\1 \2/p' |
    awk -v folder="$aside" '
        $1 != chapter {
            chapter = $1
            file = folder (++chapters % 20 == 10 ? "/valid.txt" : "/train.txt")
            if (begun[file]++) print "" > file
        }
        { verses++; print substr($0, length($1) + 2) > file }
        END { print verses, chapters > (folder "/counts") }'
[ "$(cat "$aside/counts")" = "31102 1189" ] ||
    fail "expected 31102 verses in 1189 chapters from bible -f, found: $(cat "$aside/counts")"
mv "$aside/train.txt" "$folder/train.txt"
mv "$aside/valid.txt" "$folder/valid.txt"
