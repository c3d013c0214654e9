"""The encoder's prompt: the only place where a task is put into words for the student.

The signature belongs to it: the tests call the function by name, and a student that is not told the
name cannot pass it on.
"""

from __future__ import annotations

from trainer.tasks.task import Task

ENCODER_ROLE = (
    "You are an encoder. Compress the programming task into the shortest message you can. "
    "A decoder turns your message into Python; it sees nothing else: no task, no tests. "
    "Every token you send costs reward. "
    "The message must carry the function's name, its parameters, its logic and every constant. "
    "Any notation is allowed: abbreviations, operators, symbols of your own."
)


def encoder_messages(task: Task) -> list[dict[str, str]]:
    """Return the conversation the student is asked to continue with its message.

    task     the task to encode
    returns  [system, user] in the chat format of transformers' templates
    source   the roles of the first Psuedoptimal experiment; the signature is new (it was not told there)
    """
    user = f"Task: {task.text.strip()}\nSignature: {task.signature.strip()}\nEncode (minimal):"
    return [{"role": "system", "content": ENCODER_ROLE}, {"role": "user", "content": user}]
