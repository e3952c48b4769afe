# The headers' plain comments as doxygen reads them: a comment on lines of its own belongs to what follows it, one behind
# code to all that the line declares, the first of a file to the file.
{
    line = $0
    at = index(line, "/*")
    if (!inside && at) {
        before = substr(line, 1, at - 1)
        rest = substr(line, at + 2)
        sub(/^\*/, "", rest)
        if (!first) {
            first = 1
            line = before "/** @file\n *" rest
        } else if (rest ~ /^ ---/) {
            ; # a heading
        } else if (before ~ /^[ \t]*$/) {
            line = before "/**" rest
        } else {
            line = split_up(before, rest) "/**<" rest
        }
        inside = index(rest, "*/") == 0
    } else if (inside && index(line, "*/")) {
        inside = 0
    }
    print line
}

# "double a, b; " becomes a line for each, all but the last with the first line of the comment
function split_up(before, rest,   names, count, type, i, out) {
    if (before !~ /^ +[a-z]/ || before ~ /[({=]/ || before !~ /,.*; *$/) return before
    sub(/\*\/.*/, "", rest)
    count = split(before, names, /, */)
    type = names[1]
    sub(/[a-z0-9_\[\]]+$/, "", type)
    gsub(/\*/, "", type)
    out = names[1] "; /**<" rest "*/\n"
    for (i = 2; i < count; i++)
        out = out type names[i] "; /**<" rest "*/\n"
    return out type names[count]
}
