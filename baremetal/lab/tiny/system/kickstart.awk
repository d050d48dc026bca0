# Splits a kickstart as Anaconda reads it. Three jobs, chosen by -v job=:
#   pre      the %pre scripts of the file itself, which run before anything else is looked at, and those that report an error
#   include  the text with every %include of a file replaced by the file (%pre may just have written it)
#   all      everything but %pre: sections and commands, checked for form
# Scripts go to <out>/<kind>-<number>.sh and one line "<kind> <file> <options>" each into <out>/scripts; commands go to
# <out>/commands as "<line>", then the words, separated by the unit separator. Any fault is one line on standard error, exit 1.

function fault(what) {
    print FILENAME ":" FNR ": " what >"/dev/stderr"
    failed = 1
    exit 1
}

# Words as shlex splits them: quotes group, a word that begins with # ends the line.
function split_words(text, separator,    result, word, quote, i, c, open) {
    for (i = 1; i <= length(text); i++) {
        c = substr(text, i, 1)
        if (quote != "") {
            if (c == quote) quote = ""
            else if (c == "\\" && quote == "\"") word = word substr(text, ++i, 1)
            else word = word c
        } else if (c == "\"" || c == "'") { quote = c; open = 1 }
        else if (c == "\\") { word = word substr(text, ++i, 1); open = 1 }
        else if (c == " " || c == "\t") {
            if (open) result = result separator word
            word = ""; open = 0
        } else if (c == "#" && !open) break
        else { word = word c; open = 1 }
    }
    if (quote != "") fault("no closing quotation")
    if (open) result = result separator word
    return result
}

function include(path,    line, status) {
    if (path in reading) fault("%include goes in circles: " path)
    reading[path] = 1
    while ((status = (getline line <path)) > 0) {
        if (line ~ /^%include[ \t]/) { sub(/^%include[ \t]+/, "", line); sub(/[ \t]+$/, "", line); include(line) }
        else print line
    }
    if (status < 0) fault("cannot %include " path)
    close(path)
    delete reading[path]
}

BEGIN { separator = sprintf("%c", 31) }

{ sub(/\r$/, "") }

job == "include" {
    if (!script && /^%include[ \t]/) { sub(/^%include[ \t]+/, ""); sub(/[ \t]+$/, ""); include($0) }
    else print
    if (/^%(pre|pre-install|post|onerror|traceback)([ \t]|$)/) script = 1
    if (/^%end/) script = 0
    next
}

section != "" {
    if ($0 ~ /^%end[ \t]*$/) { if (file != "") close(file); section = file = ""; next }
    if (file != "") print >file
    next
}

/^[ \t]*(#|$)/ { next }

/^%include[ \t]/ && job == "pre" { next }

/^%(pre|pre-install|post|onerror|traceback|packages|addon|anaconda)([ \t]|$)/ {
    section = substr($1, 2)
    if (section == "pre-install") section = "pre"
    if (section ~ /^(packages|addon|anaconda)$/) next
    if (job == "pre" ? section == "post" : section == "pre") next
    options = $0
    sub(/^%[a-z-]+[ \t]*/, "", options)
    file = out "/" section "-" (++number) ".sh"
    printf "" >file
    print section, file, options >(out "/scripts")
    next
}

/^%/ { fault("unknown section: " $1) }

job == "all" { print FNR split_words($0, separator) >(out "/commands") }

END {
    if (!failed && section != "") fault("%" section " has no %end")
    exit failed
}
