# The headers' plain comments as doxygen reads them: a comment on lines of its own belongs to what follows it, one behind
# code to that code, the first of a file to the file.
{
    line = $0
    at = index(line, "/*")
    if (!inside && at) {
        before = substr(line, 1, at - 1)
        rest = substr(line, at + 2)
        sub(/^\*/, "", rest)
        if (!first) {
            first = 1
            line = before "/** @file" rest
        } else if (rest ~ /^ ---/) {
            ; # a heading
        } else if (before ~ /^[ \t]*$/) {
            line = before "/**" rest
        } else {
            line = before "/**<" rest
        }
        inside = index(rest, "*/") == 0
    } else if (inside && index(line, "*/")) {
        inside = 0
    }
    print line
}
