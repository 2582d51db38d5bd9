# Read by interactive and by login shells. Debian's file returns early when the shell is not interactive, so that the
# PATH which an installer appends here would not reach the commands of a devbox.
case $- in
  *i*)
    HISTCONTROL=ignoreboth
    HISTSIZE=10000
    HISTFILESIZE=20000
    shopt -s histappend checkwinsize
    PS1='\[\e[1;32m\]\u@\h\[\e[0m\]:\[\e[1;34m\]\w\[\e[0m\]\$ '
    alias ls='ls --color=auto'
    alias grep='grep --color=auto'
    alias ll='ls -alF'
    ;;
esac
