"""Runner processes: models that run in processes of their own, beside the one with the ports.

One interpreter runs Python on one core at a time. A server of many cores therefore leaves the work
(decode, run, encode) to processes that belong to one loaded version each, and keeps the ports, the
queue and all counts in the process that clients talk to.

    messages     what the two sides say to each other
    channel      how it travels: a socket, and shared memory for what is large
    child        the process that has the Runner
    process      one such process, seen from the server: started, asked, ended
    runs         what a process is given to do, and what becomes of that when it dies
    pool         the processes of one version: who runs what, and what happens when one dies
    choice       how many there are, and whether any
"""
