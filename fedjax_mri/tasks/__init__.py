"""What is learnt.

It is the only room that joins networks, losses and metrics; it imports core, metrics, nets and data.
"""
