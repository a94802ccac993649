
# Appended to what the command writes for bash.
#
# Bash breaks words at ":", "=" and "@", too, which names of locks have: they are put together before, and what stands
# before the last break is left out of the answers, as bash keeps it. A name is no file: a directory of that name would
# have "/" added, which names another lock.
_sidelock_whole_words() {
    local line="${COMP_LINE}" word
    local -a whole=()
    local -i place index=0
    for ((place = 0; place < ${#COMP_WORDS[@]}; place++)); do
        word="${COMP_WORDS[place]}"
        if ((place > 0)) && [[ -n "${word}" && "${line}" != [[:blank:]]* ]]; then
            whole[-1]+="${word}"
        else
            whole+=("${word}")
        fi
        line="${line#"${line%%[![:blank:]]*}"}"
        line="${line#"${word}"}"
        if ((place == COMP_CWORD)); then index=$((${#whole[@]} - 1)); fi
    done
    local -a COMP_WORDS=("${whole[@]}")
    local -i COMP_CWORD="${index}"
    local current="${COMP_WORDS[COMP_CWORD]}"
    _sidelock "${1}" "${current}" "${COMP_WORDS[COMP_CWORD - 1]}"
    COMPREPLY=("${COMPREPLY[@]#"${current%"${2}"}"}")
    # Files for the command that is run, and its arguments.
    if ((${#COMPREPLY[@]} == 0)) && [[ " ${COMP_WORDS[*]:0:COMP_CWORD} " == *" -- "* ]]; then
        compopt -o bashdefault -o default 2>/dev/null
    fi
}

complete -F _sidelock_whole_words sidelock
